"""Notices work of which nothing is accepted any more: pure, counts only.

An engine whose every caption or picture is refused is busy, so it does not stall, and yet no group
will ever come of it. It ends with an error instead: a new start helps where memory was corrupted,
and the restart budget ends what it cannot help.
"""

from collections import Counter
from collections.abc import Sequence

from generators.errors import GeneratorError
from online_synclr.refusals import mend_of


class BarrenWatch:
    """Raises once at least `least` in a row, over at least `batches` batches, were refused.

    Args:
        noun: What is judged, in the plural: "captions".
    """

    def __init__(self, noun: str, *, least: int, batches: int) -> None:
        self._noun = noun
        self._least = least
        self._batches = batches
        self._in_a_row = 0
        self._reasons: Counter[str] = Counter()

    def batch_done(self, reasons: Sequence[str | None], *, example: str = "") -> None:
        """Note a batch's verdicts, None: accepted. `example`: something that was refused.

        Raises:
            GeneratorError: nothing is accepted any more; it names the commonest reason.
        """
        if None in reasons:
            self._in_a_row = 0
            self._reasons.clear()
            return
        self._in_a_row += 1
        self._reasons.update(reason for reason in reasons if reason is not None)
        if self._in_a_row >= self._batches and self._reasons.total() >= self._least:
            raise GeneratorError(self._sentence(example))

    def _sentence(self, example: str) -> str:
        reason, count = self._reasons.most_common(1)[0]
        read = f" (one read: {example[:80]!r})" if example else ""
        return (
            f"the last {self._reasons.total()} {self._noun} were all refused, {count} of them for "
            f"'{reason}'{read}; {mend_of(reason)}"
        )
