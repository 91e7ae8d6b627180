"""Making what was written safe."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder safe: new, renamed and removed ones.

    Raises:
        OSError: the disk says no.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
