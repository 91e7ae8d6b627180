"""How this process's C allocator treats blocks of the size of groups.

libzmq takes a new block for every message. By default glibc gets a block of a group's size from the
kernel and gives it back when it is freed, so that groups cost a page fault for every 4 KiB. It
learns better by itself, but only from blocks that it has seen freed, and goes on giving back what a
thread has free at the end of its heap.
"""

import ctypes
from typing import Final

# mallopt(3); ctypes knows no names of a header.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

LARGEST_KEPT_BYTES: Final = 32 * 2**20
"""The largest that glibc takes (DEFAULT_MMAP_THRESHOLD_MAX) and would come to by itself."""

FREE_KEPT_BYTES: Final = 2 * LARGEST_KEPT_BYTES
"""What glibc itself would keep at that threshold: a thread's free memory at the end of its heap."""


def keep_large_blocks() -> bool:
    """Serve blocks of up to 32 MiB from memory that is kept; for the process, from any thread.

    Once enough. False where the C library has no such setting, and nothing is changed there.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Both: setting either ends glibc's own adjusting of the two.
    kept = set_option(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    return bool(kept and set_option(_M_TRIM_THRESHOLD, FREE_KEPT_BYTES))
