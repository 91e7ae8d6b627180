"""Stop requests from outside (`online_synclr.stop_signals`), and the time to leave in.

    signal -> pipe -> watcher thread -> StopRequest -> the vote: all trainers stop together
                            |-> the grace is over: the process ends, whatever it waits for

Python runs signal handlers between two instructions of the main thread, so never while that thread
waits inside a collective whose peer is gone. The kernel's side of a handler writes to a pipe at
once; a thread reads it. That thread waits for the pipe and for the end of the grace only.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from online_synclr.stop_signals import stop_signal_pipe

EXIT_OVERDUE = 1


class StopRequest:
    """Set by a signal, read by the vote; the step under way is finished first.

    `grace_s`: how long after the request the process may take to leave. Until `training_begins`
    there is nothing to save, and a request ends the process at once.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._requested = threading.Event()
        self._requested_at_s = 0.0
        self._training = False
        self._clean_ups: list[Callable[[], None]] = []
        self.signal_number = signal.SIGTERM
        """The first signal that came."""

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._requested.is_set()

    @property
    def remaining_s(self) -> float:
        """Seconds of grace left; the whole of it while nothing was requested."""
        if not self.requested:
            return self._grace_s
        return max(0.0, self._requested_at_s + self._grace_s - time.monotonic())

    def request(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """Ask for a stop; only the first request starts the grace. Not for signal handlers."""
        if not self.requested:
            self.signal_number = signal_number
            self._requested_at_s = time.monotonic()
            self._requested.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a request, at most `timeout_s` seconds; whether there is one."""
        return self._requested.wait(timeout_s)

    def training_begins(self) -> None:
        """From here on there is something to save: a request leaves in order."""
        self._training = True

    def before_ending(self, clean_up: Callable[[], None]) -> None:
        """Have `clean_up` called before the process is ended out of turn; it must not wait."""
        self._clean_ups.append(clean_up)

    @property
    def overdue_in_s(self) -> float | None:
        """Seconds until the process must be gone; None while nothing was requested."""
        if not self.requested:
            return None
        return self.remaining_s if self._training else 0.0

    def end_now(self) -> None:
        """End the process: the grace is over, or there was nothing to save."""
        name = self.signal_number.name
        if self._training:
            _say(
                f"not done {self._grace_s:g} s after {name} (run.grace_s), ended as it is; a "
                "checkpoint that was being written does not count"
            )
        for clean_up in self._clean_ups:
            with contextlib.suppress(Exception):
                clean_up()
        os._exit(EXIT_OVERDUE if self._training else 128 + self.signal_number)


@contextlib.contextmanager
def stop_on_signals(grace_s: float) -> Iterator[StopRequest]:
    """Turn the signals into a `StopRequest` inside the block (main thread only)."""
    stop = StopRequest(grace_s)
    # The pipe ends first, by which the watcher does.
    with contextlib.ExitStack() as afterwards, stop_signal_pipe(lambda number: None) as pipe:
        reading = os.dup(pipe)
        afterwards.callback(os.close, reading)
        watcher = threading.Thread(target=_watch, args=(reading, stop), name="signals", daemon=True)
        afterwards.callback(watcher.join)
        watcher.start()
        yield stop


def _watch(reading: int, stop: StopRequest) -> None:
    while True:
        ready, _, _ = select.select([reading], [], [], stop.overdue_in_s)
        if not ready:
            stop.end_now()
        numbers = os.read(reading, 64)
        if not numbers:
            return
        stop.request(signal.Signals(numbers[0]))


def _say(text: str) -> None:
    # Nobody may be left to read it.
    with contextlib.suppress(OSError):
        print(f"online_synclr: {text}", file=sys.stderr, flush=True)
