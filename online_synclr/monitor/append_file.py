"""A file that grows by whole records, even on a full disk."""

import os
from pathlib import Path


class AppendFile:
    """Appends records unbuffered; a record that cannot be written whole leaves no torn bytes.

    Readers of event files stop for ever at a torn record, and so would every later record be lost
    to them when the disk has room again.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.path = path

    def append(self, record: bytes) -> None:
        """Write one record.

        Raises:
            OSError: the record could not be written; the file is as it was before.
        """
        before_bytes = os.fstat(self._descriptor).st_size
        left = memoryview(record)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, before_bytes)
            raise

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
