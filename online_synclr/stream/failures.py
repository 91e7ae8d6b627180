"""How each generator's engines ended that did not end well, as one trainer heard it: pure.

Bounded: of a generator that fails for weeks the first failures are kept, which say why it began,
and the latest. So are the names: those whose last failure is the oldest are forgotten first.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from online_synclr.names_kept import forget_gone

FailureKind = Literal["failed", "silent", "out"]
MAX_FIRST: Final = 4
MAX_LATEST: Final = 12
MAX_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """One end.

    `kind`: "failed": an engine, by its own word or its supervisor's; "silent": nothing was heard
    for `stream.silence_s`; "out": the generator gave up for good. `incarnation` and `stream` say
    which start of the engine it was; `message` is one line of at most MAX_MESSAGE characters;
    `at_s` is on the receiver's clock.
    """

    kind: FailureKind
    incarnation: int
    stream: int
    message: str
    at_s: float


def one_line(text: str) -> str:
    """The first line of an error's text, bounded."""
    return next(iter(text.strip().splitlines()), "").rstrip()[:MAX_MESSAGE]


class FailureLog:
    """The failures of all generators."""

    def __init__(self) -> None:
        self._first: dict[str, list[Failure]] = {}
        self._latest: dict[str, deque[Failure]] = {}

    def note(self, generator_id: str, failure: Failure) -> None:
        """Keep a failure; what is told twice of one engine, by it and by its supervisor, is one."""
        known = self.of(generator_id)
        if failure.kind == "failed" and any(_same_end(failure, other) for other in known):
            return
        # Put last: the order of names is that of their latest failures.
        first = self._first[generator_id] = self._first.pop(generator_id, [])
        if len(first) < MAX_FIRST:
            first.append(failure)
        else:
            self._latest.setdefault(generator_id, deque(maxlen=MAX_LATEST)).append(failure)
        for forgotten in forget_gone(self._first, here={generator_id}):
            self._latest.pop(forgotten, None)

    def of(self, generator_id: str) -> tuple[Failure, ...]:
        """A generator's failures, oldest first."""
        latest = self._latest.get(generator_id, ())
        return (*self._first.get(generator_id, ()), *latest)


def _same_end(one: Failure, other: Failure) -> bool:
    return one.kind == other.kind and (one.incarnation, one.stream) == (
        other.incarnation,
        other.stream,
    )
