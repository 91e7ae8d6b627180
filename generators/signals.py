"""Stop signals as a request to leave, for loops that wait on descriptors."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from online_synclr.stop_signals import stop_signals


@contextlib.contextmanager
def leave_on_signal(leave: Callable[[int], None]) -> Iterator[int]:
    """Call `leave` with the signal's number; gives a descriptor that is readable after one.

    Raises:
        RuntimeError: this is not the main thread, the only one that may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a generator must be run from the main thread")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = {
        number: signal.signal(number, lambda caught, _: leave(caught)) for number in stop_signals()
    }
    previous_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
