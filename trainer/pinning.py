"""Page-locks the pool's memory, so that a GPU copies groups from where the stream put them."""

import contextlib

import numpy as np
import torch

PORTABLE = 1
"""cudaHostRegisterPortable: for every context of the process."""


def pin(memory: np.ndarray, device: torch.device) -> str | None:
    """Register `memory` with CUDA, as it is, also while it is written to; None, or why not.

    All of it is resident from now on. It stays registered until the process ends: the pool lives
    that long, and the driver undoes it then.
    """
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, PORTABLE)
    try:
        torch.cuda.check_error(code)
    except RuntimeError as error:
        # The runtime keeps the error for whoever asks next: that must not be the training step.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=device)
        return str(error)
    return None
