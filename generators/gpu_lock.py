"""One engine at a time loads on a GPU: two that measure free memory at once both count it."""

import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from generators.cache import file_lock


def gpu_start_lock(gpu: str) -> AbstractContextManager[None]:
    """Held while models load on the GPU of that name (CUDA_VISIBLE_DEVICES); empty: no lock.

    Waits for the engine of this user that is loading on the same GPU; the kernel releases the lock
    when that engine is done or dead.
    """
    if not gpu:
        return nullcontext()
    folder = Path(tempfile.gettempdir()) / f"online_synclr-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return file_lock(folder / f"gpu-{gpu}.lock")
