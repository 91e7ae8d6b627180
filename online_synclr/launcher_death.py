"""What becomes of a rank whose torchrun is killed.

Nobody would restart it, end it or wait for it, while it holds GPUs and the run folder. The kernel
sends it SIGTERM instead: it saves and leaves as after any stop request.
"""

import contextlib
import ctypes
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def leave_with_launcher() -> None:
    """Ask the kernel for SIGTERM when the thread that started this process ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
