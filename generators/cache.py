"""How a folder of a converted model appears whole in the cache of this machine."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`.

    Waits for the process that holds it; the kernel releases the lock when that process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, having let `build` fill it if it was not there.

    Of several processes one builds and the others wait for it (see `file_lock`). The folder
    appears by one rename, so that a half-built one is never seen; a failed build leaves nothing.
    """
    if folder.is_dir():
        return folder
    with file_lock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            _build_beside(folder, build)
    return folder


def _build_beside(folder: Path, build: Callable[[Path], None]) -> None:
    # Whoever left one behind is gone: this process holds the lock.
    for left_behind in folder.parent.glob(f"{folder.name}.*.unfinished"):
        shutil.rmtree(left_behind, ignore_errors=True)
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
    unfinished.mkdir(parents=True)
    try:
        build(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
