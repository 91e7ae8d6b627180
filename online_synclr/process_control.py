"""What a process asks of the kernel about its family (prctl(2)), nothing where not on Linux; and
how a rank starts itself anew.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final, NoReturn

GOES_ON: Final = -1
"""No exit code: the rank is to start itself anew (`start_anew`), for the run's next phase."""

STARTS_IN_PLACE: Final = "ONLINE_SYNCLR_STARTS_IN_PLACE"
"""Variable that counts them; torchrun's own restarts begin without it."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have this process signalled when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def start_anew() -> NoReturn:
    """Become a fresh process with the same command line, under the same torchrun.

    torchrun watches the process id and its output, which stay; files and sockets are closed, device
    memory is given back, and nothing of the old program is left to go wrong.

    Raises:
        OSError: the kernel cannot start it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    starts = int(os.environ.get(STARTS_IN_PLACE, "0")) + 1
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, STARTS_IN_PLACE: str(starts)},
    )


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
