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
        self._failed_step: int | None = None

    def on_failure(self, step: int, reason: str) -> str | None:
        """Note one; a sentence for people where it is the first of a row. A step counts once."""
        if step == self._failed_step:
            return None
        self._failed_step = step
        self.failed += 1
        self._in_a_row += 1
        if self._in_a_row > 1:
            return None
        return (
            f"THE CHECKPOINT OF STEP {step} COULD NOT BE WRITTEN: {reason}; training goes on, the "
            "checkpoints before are as they were, and the next one that is due is tried again"
        )

    def on_success(self, step: int) -> str | None:
        """Note one; a sentence for people where it, or others before it, had failed."""
        again = step == self._failed_step
        missed = self._in_a_row - again
        failed, self._in_a_row, self._failed_step = self._in_a_row, 0, None
        if not failed:
            return None
        words = f"the checkpoint of step {step} is written" + (", at another try" if again else "")
        return words + (f"; {missed} before it could not be" if missed else "")
