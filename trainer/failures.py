"""Bad ends of generators, gathered from all trainers: for the log and the run's summary. Pure."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from online_synclr.names_kept import forget_gone
from online_synclr.stream.failures import MAX_FIRST, MAX_LATEST
from online_synclr.stream.messages import engine_start
from online_synclr.stream.peers import PeerView

MAX_GENERATORS: Final = 256
"""Generators whose failures the summary keeps: those on spot machines may be thousands."""


class FailureReport(msgspec.Struct, frozen=True, kw_only=True):
    """One bad end; see `online_synclr.stream.failures.Failure`.

    `time_s`: wall clock; `stream`: the engine's number in its attempt; `engine_start`: how many
    starts of the generator's engine came before this one, which the number says, too.
    """

    time_s: float
    kind: str
    incarnation: int
    engine_start: int
    stream: int
    message: str

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What makes two reports one: several trainers hear the same end at their own moments."""
        said = self.message if self.kind == "out" else ""
        return self.kind, self.incarnation, self.stream, said


Failures = dict[str, list[FailureReport]]
"""By generator, oldest first."""


def failures_of(view: PeerView) -> list[FailureReport]:
    """A generator's bad ends as one trainer heard them, on the wall clock."""
    now_s = time.time()
    return [
        FailureReport(
            time_s=round(now_s - (view.seen_at_s - failure.at_s), 1),
            kind=failure.kind,
            incarnation=failure.incarnation,
            engine_start=engine_start(failure.stream),
            stream=failure.stream,
            message=failure.message,
        )
        for failure in view.failures
    ]


def merge_failures(*parts: Iterable[FailureReport]) -> list[FailureReport]:
    """Each end once, oldest first; the first ones and the latest where there are many."""
    merged: dict[tuple[str, int, int, str], FailureReport] = {}
    for report in sorted((one for part in parts for one in part), key=lambda one: one.time_s):
        merged.setdefault(report.key, report)
    ends = list(merged.values())
    return ends if len(ends) <= MAX_FIRST + MAX_LATEST else ends[:MAX_FIRST] + ends[-MAX_LATEST:]


def add_failures(before: Failures, now: Mapping[str, Sequence[FailureReport]]) -> Failures:
    """Those of earlier attempts and of this one, of the generators that failed last."""
    names = dict.fromkeys([*before, *(name for name, ends in now.items() if ends)])
    together = {name: merge_failures(before.get(name, ()), now.get(name, ())) for name in names}
    latest = sorted(together, key=lambda name: together[name][-1].time_s)[-MAX_GENERATORS:]
    return {name: together[name] for name in names if name in set(latest)}


class FailureTeller:
    """Turns what is new into lines for people, each end once.

    Silence is left to `trainer.roll_call`, which tells who is heard of and who is not.
    """

    def __init__(self) -> None:
        self._told: dict[str, dict[tuple[str, int, int, str], None]] = {}

    def lines(self, failures: Mapping[str, Sequence[FailureReport]]) -> list[str]:
        """What was not told yet. Generators that are left out are forgotten when they are many."""
        forget_gone(self._told, here=failures)
        return [
            _line(generator, report)
            for generator, reports in failures.items()
            for report in reports
            if report.kind != "silent" and self._is_new(generator, report)
        ]

    def _is_new(self, generator: str, report: FailureReport) -> bool:
        told = self._told.setdefault(generator, {})
        if report.key in told:
            return False
        told[report.key] = None
        if len(told) > 4 * (MAX_FIRST + MAX_LATEST):
            # Beyond what any report still holds.
            told.pop(next(iter(told)))
        return True


def _line(generator: str, report: FailureReport) -> str:
    if report.kind == "out":
        return f"generator {generator} is out: {report.message}"
    return f"generator {generator}, engine start {report.engine_start}, failed: {report.message}"
