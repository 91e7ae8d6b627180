"""Cumulative waiting time, waits still going on included."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class WaitClock:
    """Seconds spent inside `waiting()`, summed over threads; readable while one still waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_s = 0.0
        self._since_s: dict[int, float] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in the block."""
        me = threading.get_ident()
        with self._lock:
            self._since_s[me] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._done_s += time.monotonic() - self._since_s.pop(me)

    def total_s(self) -> float:
        """Seconds waited so far."""
        with self._lock:
            now_s = time.monotonic()
            return self._done_s + sum(now_s - since_s for since_s in self._since_s.values())
