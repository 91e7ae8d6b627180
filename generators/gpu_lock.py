"""One engine at a time loads on a GPU: two that measure free memory at once both count it."""

from contextlib import AbstractContextManager, nullcontext

from generators.cache import file_lock
from generators.private_folder import private_folder


def gpu_start_lock(gpu: str) -> AbstractContextManager[None]:
    """Held while models load on the GPU of that name (CUDA_VISIBLE_DEVICES); empty: no lock.

    Waits for the engine of this user that is loading on the same GPU; the kernel releases the lock
    when that engine is done or dead.

    Raises:
        SetupError: the folder of locks is not this user's.
    """
    if not gpu:
        return nullcontext()
    return file_lock(private_folder() / f"gpu-{gpu}.lock")
