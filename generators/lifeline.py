"""How a started process learns that its parent is gone or wants it to stop.

The parent holds the writing end of a pipe. A line "stop" asks for an orderly end; the end of the
file means that the parent is gone, however it went: the kernel closes the pipe.
"""

import contextlib
import os
import threading
from collections.abc import Callable

STOP_REQUEST = b"stop\n"


def watch_parent(
    lifeline_fd: int, *, on_stop: Callable[[], None], on_parent_gone: Callable[[], None]
) -> threading.Thread:
    """Read the lifeline on a thread of its own; it waits for the parent's word or its end."""
    thread = threading.Thread(
        target=_watch, args=(lifeline_fd, on_stop, on_parent_gone), name="lifeline", daemon=True
    )
    thread.start()
    return thread


def kill_descendants() -> None:
    """SIGKILL to every process below this one."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def end_everything() -> None:
    """Leave at once, with all descendants: nobody is there to answer to."""
    kill_descendants()
    os._exit(1)


def _watch(
    lifeline_fd: int, on_stop: Callable[[], None], on_parent_gone: Callable[[], None]
) -> None:
    with os.fdopen(lifeline_fd, "rb", buffering=0) as lifeline:
        while said := lifeline.readline():
            if said == STOP_REQUEST:
                on_stop()
    on_parent_gone()
