"""Notices that generators refuse too much of what they make: pure, without a clock.

It reads the cumulative counters of STATUS and looks at the last verdicts only: a model that goes
bad on the twentieth day is seen as soon as one that was bad from the start. Generators are judged
one by one, since one broken machine among many hardly moves the run's own share.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from online_synclr.config import Config
from online_synclr.monitor.formats import percent
from online_synclr.names_kept import forget_gone
from online_synclr.refusals import mend_of

CAPTIONS_WINDOW: Final = 512
GROUPS_WINDOW: Final = 256
SLICES: Final = 16
"""Parts of a window that fall out of it at once; more would only cost memory."""
MAX_LINES: Final = 50
_TRUSTED_PART: Final = 4
"""A window that is filled to less than one part in so many says nothing yet."""
_CLEARED_BELOW: Final = 0.8
"""Of the limit: an alarm that is over stays over, and is not said anew with every other caption."""


@dataclass(frozen=True)
class Tally:
    """Verdicts so far, cumulative: how many, and how many were refusals, by reason."""

    judged: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)

    def since(self, earlier: "Tally") -> "Tally":
        """The verdicts between two tallies; none are negative."""
        refused = {
            reason: count - earlier.refused.get(reason, 0)
            for reason, count in self.refused.items()
            if count > earlier.refused.get(reason, 0)
        }
        return Tally(max(0, self.judged - earlier.judged), refused)

    @property
    def num_refused(self) -> int:
        """Refusals for any reason."""
        return sum(self.refused.values())

    @property
    def share(self) -> float:
        """Refusals of all verdicts; 0 without any."""
        return min(1.0, self.num_refused / self.judged) if self.judged else 0.0


class RecentVerdicts:
    """The last `size` verdicts of one generator, or a few more; at most SLICES + 2 tallies."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._marks: deque[Tally] = deque()
        self._newest = Tally()
        self.tally = Tally()
        """The verdicts in the window."""

    def note(self, tally: Tally) -> None:
        """Take a newer tally; one that counts less is of somebody who knows less, and says nothing.

        What is counted is never taken back: trainers hear of it at different moments.
        """
        if not self._marks:
            # Of a generator that is met late, only what it does from now on is recent.
            self._marks.append(tally if tally.judged > self._size else Tally())
        elif tally.judged < self._newest.judged or tally == self._newest:
            return
        self._newest = tally
        if tally.judged - self._marks[-1].judged >= max(1, self._size // SLICES):
            self._marks.append(tally)
        while len(self._marks) > 1 and tally.judged - self._marks[1].judged >= self._size:
            self._marks.popleft()
        self.tally = self._newest.since(self._marks[0])

    @property
    def trusted(self) -> bool:
        """Whether the window holds enough to judge a generator by."""
        return self.tally.judged >= max(1, self._size // _TRUSTED_PART)


class RefusalAlarm:
    """One kind of verdict over all generators.

    Args:
        noun: What is judged, in the plural.
        setting: The key of the limit, for people.
        limit: Share of the refused from above which a generator is named; 1: never.
        size: Verdicts of a generator that count as recent.
    """

    def __init__(self, noun: str, *, setting: str, limit: float, size: int) -> None:
        self._noun = noun
        self._setting = setting
        self._limit = limit
        self._size = size
        self._recent: dict[str, RecentVerdicts] = {}
        self._over: set[str] = set()

    def note(self, tallies: Mapping[str, Tally]) -> list[str]:
        """Take the generators' newer tallies; the lines to say: who went over the limit, who back.

        Generators that are left out stay as they are; beyond a number of names they are forgotten.
        """
        self._over -= set(forget_gone(self._recent, here=tallies))
        for generator, tally in tallies.items():
            self._recent.setdefault(generator, RecentVerdicts(self._size)).note(tally)
        seen = {name: self._recent[name] for name in tallies if self._recent[name].trusted}
        shares = {name: recent.tally.share for name, recent in seen.items()}
        onset = [name for name in shares if name not in self._over and shares[name] > self._limit]
        cleared = [
            name
            for name in shares
            if name in self._over and shares[name] <= _CLEARED_BELOW * self._limit
        ]
        self._over = (self._over | set(onset)) - set(cleared)
        lines = [self._onset_line(onset)] if onset else []
        return lines + ([self._cleared_line(cleared)] if cleared else [])

    def share(self, generators: Iterable[str]) -> float:
        """Share of the refused among the recent verdicts of these generators together."""
        return self._together(generators).share

    def _together(self, generators: Iterable[str]) -> Tally:
        refused: Counter[str] = Counter()
        judged = 0
        for name in generators:
            if name in self._recent:
                tally = self._recent[name].tally
                judged += tally.judged
                refused.update(tally.refused)
        return Tally(judged, refused)

    def _onset_line(self, generators: list[str]) -> str:
        tally = self._together(generators)
        reason, count = Counter(tally.refused).most_common(1)[0]
        return (
            f"QUALITY: {percent(tally.share)} of the last {tally.judged} {self._noun} of "
            f"{_named(generators)} were refused, {percent(count / tally.num_refused)} of those for "
            f"'{reason}': {mend_of(reason)} (said above {self._setting}={self._limit:g})"
        )

    def _cleared_line(self, generators: list[str]) -> str:
        tally = self._together(generators)
        return (
            f"quality: {self._noun} of {_named(generators)} pass again, "
            f"{percent(tally.share)} of the last {tally.judged} were refused"
        )


class RefusalWatch:
    """Captions and groups of all generators: shares for the metrics, lines for people."""

    def __init__(self, config: Config) -> None:
        self._captions = RefusalAlarm(
            "captions",
            setting="captions.filter.max_rejected_share",
            limit=config.captions.filter.max_rejected_share,
            size=CAPTIONS_WINDOW,
        )
        self._groups = RefusalAlarm(
            "groups",
            setting="images.max_rejected_share",
            limit=config.images.max_rejected_share,
            size=GROUPS_WINDOW,
        )
        self._unsaid: list[str] = []
        self.lines: list[str] = []
        """What there was to say so far, the last MAX_LINES of it."""

    def note(self, counters: Mapping[str, Mapping[str, float]]) -> None:
        """Take newer cumulative counters of some generators, by generator."""
        new = self._captions.note(
            {name: _tally(of, "captions_written", "rejected/") for name, of in counters.items()}
        ) + self._groups.note(
            {name: _tally(of, "groups_rendered", "gated/") for name, of in counters.items()}
        )
        self._unsaid += new
        self.lines = [*self.lines, *new][-MAX_LINES:]

    def take_lines(self) -> list[str]:
        """What there is to say since the last call."""
        unsaid, self._unsaid = self._unsaid, []
        return unsaid

    def captions_share(self, generators: Iterable[str]) -> float:
        """Refused of the recent captions of these generators."""
        return self._captions.share(generators)

    def groups_share(self, generators: Iterable[str]) -> float:
        """Refused of the recent groups of these generators."""
        return self._groups.share(generators)


def refused_by_reason(counters: Mapping[str, float], prefix: str) -> dict[str, int]:
    """A generator's refusals: `rejected/` of captions, `gated/` of groups."""
    return {
        name.removeprefix(prefix): int(value)
        for name, value in counters.items()
        if name.startswith(prefix)
    }


def _tally(counters: Mapping[str, float], judged: str, prefix: str) -> Tally:
    return Tally(int(counters.get(judged, 0)), refused_by_reason(counters, prefix))


def _named(generators: list[str]) -> str:
    shown = ", ".join(generators[:8])
    return shown if len(generators) <= 8 else f"{shown} and {len(generators) - 8} more"
