"""The signals that ask a rank to leave in order.

SIGTERM, SIGINT, SIGHUP and SIGQUIT are what torchrun passes on by itself; SIGUSR1 and SIGUSR2 are
what schedulers send ahead of a preemption (Slurm's `--signal`). torchrun itself dies of the last
two unless it is started with `--signals-to-handle` that names them.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

STOP_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def stop_signals() -> list[signal.Signals]:
    """Those to handle: under `nohup`, which ignores SIGHUP, that one stays ignored."""
    hang_up_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (number is signal.SIGHUP and hang_up_ignored)]


@contextlib.contextmanager
def stop_signal_pipe(handle: Callable[[int], None]) -> Iterator[int]:
    """Call `handle` with each stop signal's number inside the block.

    Gives a descriptor from which the numbers can be read as bytes. The kernel's side of a handler
    writes them at once; Python runs `handle` between two instructions of the main thread. Copies
    of the descriptor (`os.dup`) come to their end with the block.

    Raises:
        RuntimeError: this is not the main thread, the only one that may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("stop signals can be handled by the main thread only")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = {
        number: signal.signal(number, lambda caught, _: handle(caught)) for number in stop_signals()
    }
    previous_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(writing)
        os.close(reading)
