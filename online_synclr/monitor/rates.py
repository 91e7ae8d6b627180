"""Rates from cumulative counters: over a recent window and over the whole run."""

from collections import defaultdict, deque
from collections.abc import Container

WINDOW_S = 30.0


class RateMeter:
    """Turns readings of one cumulative counter into rates a second.

    A reading below the one before means that the counter's owner restarted from zero: what it
    counts from then on is added to what it had counted.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()
        self._first: tuple[float, float] | None = None
        self._last_reading = 0.0
        self.total = 0.0

    def update(self, time_s: float, reading: float) -> None:
        """Note the counter's value at a moment (seconds of any monotonic clock)."""
        grown = reading - self._last_reading if reading >= self._last_reading else reading
        self._last_reading = reading
        self.total += grown
        if self._first is None:
            self._first = (time_s, self.total)
        self._points.append((time_s, self.total))
        # One point older than the window stays, so that the window is spanned and never shrinks.
        while len(self._points) > 2 and self._points[1][0] <= time_s - self._window_s:
            self._points.popleft()

    def recent_per_s(self) -> float:
        """Rate over about the last `window_s` seconds; 0 before two readings."""
        return _slope(self._points[0], self._points[-1]) if self._points else 0.0

    def whole_per_s(self) -> float:
        """Rate since the first reading; 0 before two readings."""
        return _slope(self._first, self._points[-1]) if self._first else 0.0


class RateBoard:
    """One `RateMeter` for each counter of each owner, and their sums.

    Owners are generators, for example: sums stay right when one of them restarts or goes. Of one
    that is retired only its part of the sums is kept.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._meters: dict[str, dict[str, RateMeter]] = {}
        """By counter, then by owner."""
        self._departed: defaultdict[str, float] = defaultdict(float)

    def update(self, time_s: float, owner: str, counter: str, reading: float) -> None:
        """Note the value of one owner's counter at a moment."""
        self.meter(owner, counter).update(time_s, reading)

    def meter(self, owner: str, counter: str) -> RateMeter:
        """The meter of one owner's counter, made on first use."""
        meters = self._meters.setdefault(counter, {})
        if owner not in meters:
            meters[owner] = RateMeter(self._window_s)
        return meters[owner]

    def retire(self, here: Container[str]) -> None:
        """Forget all owners but these; what they counted stays in the sums.

        One that comes back is a new owner: its counters must begin at zero again.
        """
        for counter, meters in self._meters.items():
            for owner in [owner for owner in meters if owner not in here]:
                self._departed[counter] += meters.pop(owner).total

    def total(self, counter: str) -> float:
        """Sum of one counter over all owners so far, restarts included."""
        present = sum(meter.total for meter in self._of(counter).values())
        return self._departed.get(counter, 0.0) + present

    def recent_per_s(self, counter: str) -> float:
        """Sum of the owners' recent rates."""
        return sum(meter.recent_per_s() for meter in self._of(counter).values())

    def shares(self, counter: str) -> dict[str, float]:
        """Each present owner's share of the counter's total; empty while nothing was counted."""
        total = self.total(counter)
        if total <= 0:
            return {}
        return {owner: meter.total / total for owner, meter in self._of(counter).items()}

    def _of(self, counter: str) -> dict[str, RateMeter]:
        return self._meters.get(counter, {})


def _slope(first: tuple[float, float], last: tuple[float, float]) -> float:
    elapsed_s = last[0] - first[0]
    return (last[1] - first[1]) / elapsed_s if elapsed_s > 0 else 0.0
