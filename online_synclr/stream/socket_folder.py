"""Private folders for Unix sockets, and the removal of those whose owner was killed.

A folder is held by a lock on the folder itself, which the kernel lets go when its process ends,
however it ends. So a folder of ours that can be locked belongs to nobody: process numbers, which
are used again and differ between containers that share a temporary folder, are not asked.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "osynclr-trainer-"


class SocketFolder:
    """A fresh folder of mode 0700, held by this process until `remove`.

    Args:
        parent: where to make it; none: the temporary folder.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.path, self._lock = _make_held(parent)

    def remove(self) -> None:
        """Remove the folder and let go of it; twice is allowed."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_abandoned(parent: Path | None = None) -> int:
    """Remove this user's folders whose process is gone; how many. Never waits, never raises."""
    removed = 0
    with contextlib.suppress(OSError):
        for folder in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                removed += _remove_if_abandoned(folder)
    return removed


def _make_held(parent: Path | None) -> tuple[Path, int]:
    while True:
        # mkdtemp makes the folder with mode 0700 and never reuses one.
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Somebody who clears away may have come between making and locking: then it is gone.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = _lock(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_if_abandoned(folder: Path) -> bool:
    if folder.lstat().st_uid != os.getuid():
        return False
    try:
        lock = _lock(folder)
    except BlockingIOError:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    return True


def _lock(folder: Path) -> int:
    """Raises BlockingIOError where another process holds the folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle
