"""Which checkpoints could not be written, and what to tell people about it; pure."""


class SaveRecord:
    """Counts failures; says the first of a row, and when checkpoints can be written again.

    Args:
        failed: of earlier attempts.
    """

    def __init__(self, failed: int = 0) -> None:
        self.failed = failed
        """Checkpoints that could not be written, over all attempts."""
        self._in_a_row = 0

    def on_failure(self, step: int, reason: str) -> str | None:
        """Note one; a sentence for people where it is the first of a row."""
        self.failed += 1
        self._in_a_row += 1
        if self._in_a_row > 1:
            return None
        return (
            f"THE CHECKPOINT OF STEP {step} COULD NOT BE WRITTEN: {reason}; training goes on, the "
            "checkpoints before are as they were, and the next one that is due is tried again"
        )

    def on_success(self, step: int) -> str | None:
        """Note one; a sentence for people where others had failed before it."""
        missed, self._in_a_row = self._in_a_row, 0
        if not missed:
            return None
        return f"the checkpoint of step {step} is written; {missed} before it could not be"
