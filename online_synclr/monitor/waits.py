"""How long a process waited, by cause.

Both sides use it: a trainer for groups and for the vote, a generator for captions and credits. A
wait that is still going on counts up to the moment somebody asks, so a long one is never hidden.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WaitClock:
    """Cumulative seconds of waiting by cause; every method may be called from any thread.

    Two threads that wait for the same cause at once both count, so a fraction can exceed one for
    a cause that several threads wait for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._done_s: dict[str, float] = {}
        self._open: dict[int, tuple[str, float]] = {}
        self._next_key = 0
        self._start_time_s = clock()
        self._at_start_s: dict[str, float] = {}

    @contextmanager
    def waiting(self, cause: str) -> Iterator[None]:
        """Count the time spent inside the block as waiting for `cause`."""
        key = self._begin(cause)
        try:
            yield
        finally:
            self._end(key)

    def add(self, cause: str, seconds: float) -> None:
        """Count a wait that was measured elsewhere."""
        with self._lock:
            self._done_s[cause] = self._done_s.get(cause, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by cause since the clock was made, open waits included."""
        with self._lock:
            return self._seconds(self._clock())

    def start(self) -> None:
        """Make now the moment from which `fractions` counts (the first step, for a trainer)."""
        with self._lock:
            self._start_time_s = self._clock()
            self._at_start_s = self._seconds(self._start_time_s)

    def elapsed_s(self) -> float:
        """Seconds since `start`, or since the clock was made."""
        return self._clock() - self._start_time_s

    def fractions(self) -> dict[str, float]:
        """Share of the time since `start` by cause, open waits included; empty at time zero."""
        with self._lock:
            now_s = self._clock()
            elapsed_s = now_s - self._start_time_s
            if elapsed_s <= 0:
                return {}
            return {
                cause: (total_s - self._at_start_s.get(cause, 0.0)) / elapsed_s
                for cause, total_s in self._seconds(now_s).items()
            }

    def _begin(self, cause: str) -> int:
        with self._lock:
            key = self._next_key
            self._next_key += 1
            self._open[key] = (cause, self._clock())
            return key

    def _end(self, key: int) -> None:
        with self._lock:
            cause, began_s = self._open.pop(key)
            self._done_s[cause] = self._done_s.get(cause, 0.0) + self._clock() - began_s

    def _seconds(self, now_s: float) -> dict[str, float]:
        totals_s = dict(self._done_s)
        for cause, began_s in self._open.values():
            totals_s[cause] = totals_s.get(cause, 0.0) + now_s - began_s
        return totals_s
