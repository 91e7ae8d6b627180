"""Cumulative counters of one engine, shared by its threads."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Counters:
    """Named sums that only grow, and gauges that are set; safe to use from any thread.

    Times of waits and work that are still going on are part of every snapshot: a thread that has
    been blocked for a minute shows that minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        self._running: dict[tuple[str, int], float] = {}

    def add(self, name: str, amount: float = 1) -> None:
        """Add `amount` to the sum `name`."""
        with self._lock:
            self._values[name] = self._values.get(name, 0) + amount

    def add_all(self, amounts: Mapping[str, float]) -> None:
        """Add to several sums at once: no snapshot has some of them only."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] = self._values.get(name, 0) + amount

    def set(self, name: str, value: float) -> None:
        """Set the gauge `name`."""
        with self._lock:
            self._values[name] = value

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside, in seconds, to the sum `name`. Not nested with itself."""
        key = (name, threading.get_ident())
        start = self._clock()
        with self._lock:
            self._running[key] = start
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]
                self._values[name] = self._values.get(name, 0) + self._clock() - start

    def snapshot(self) -> dict[str, float]:
        """All values now, with `elapsed_s` since this object was made."""
        with self._lock:
            now = self._clock()
            values = dict(self._values)
            for (name, _), start in self._running.items():
                values[name] = values.get(name, 0) + now - start
            values["elapsed_s"] = now - self._start
            return values
