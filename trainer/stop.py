"""Stop requests from outside: SIGTERM (torchrun, a scheduler) and SIGINT (Ctrl-C)."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Set by a signal, read by the vote; the step under way is finished first.

    `grace_s`: how long after the request the process may take to leave.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._requested_at: float | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._requested_at is not None

    @property
    def remaining_s(self) -> float:
        """Seconds of grace left; the whole of it while nothing was requested."""
        if self._requested_at is None:
            return self._grace_s
        return max(0.0, self._requested_at + self._grace_s - time.monotonic())

    def request(self) -> None:
        """Ask for a stop; only the first request starts the grace."""
        if self._requested_at is None:
            self._requested_at = time.monotonic()


@contextmanager
def stop_on_signals(grace_s: float) -> Iterator[StopRequest]:
    """Turn the signals into a `StopRequest` inside the block (main thread only)."""
    stop = StopRequest(grace_s)

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.request()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
