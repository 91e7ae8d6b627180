"""A file that grows by whole blocks, each of them safe on disk before the next."""

import contextlib
import os
from pathlib import Path

from online_synclr.disk import sync_folder


class DurableFile:
    """A new file; what `append` has returned for is never touched again.

    A block that could not be written or synced leaves at most torn bytes behind the last whole
    one, and the next block is written over them.

    Raises:
        FileExistsError: the file is there already: nothing is ever written over.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._num_bytes = 0
        sync_folder(path.parent)

    @property
    def num_bytes(self) -> int:
        """Length of what is safe."""
        return self._num_bytes

    def append(self, block: bytes) -> None:
        """Write a block and wait until it is on disk.

        Raises:
            OSError: it is not; what was there before is as it was.
        """
        try:
            self._write(block)
            os.fsync(self._descriptor)
        except OSError:
            # Where even this fails, readers recognise the torn bytes at the end.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._num_bytes)
            raise
        self._num_bytes += len(block)

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, block: bytes) -> None:
        offset, left = self._num_bytes, memoryview(block)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            offset, left = offset + written, left[written:]
