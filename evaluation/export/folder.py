"""A folder that is there whole or not at all.

.NAME.<pid>.tmp   being written; beside NAME, so that renaming it is one step
.NAME.<pid>.old   what was there before, until the new one is in its place
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from evaluation.errors import EvaluationError
from online_synclr.disk import sync_folder

MARKS = ("config.json", "README.md")
"""What a folder must hold to be taken for an export, and replaced."""


def check_place(out: Path, *, force: bool) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        EvaluationError: there is something, and it is no export, or it may not be replaced.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise EvaluationError(f"--out={out} is not a folder; name another place.")
    if not any(out.iterdir()):
        return
    if not all((out / name).is_file() for name in MARKS):
        raise EvaluationError(
            f"--out={out} holds something else than an export, which is never overwritten; name "
            "another place."
        )
    if not force:
        raise EvaluationError(f"--out={out} is there already; name another place, or add --force.")


@contextlib.contextmanager
def written_whole(out: Path, *, force: bool) -> Iterator[Path]:
    """A folder to write into; it takes its place when the block ends without an error.

    Raises:
        EvaluationError: the place is taken (see `check_place`).
        OSError: the disk is full or gone; what was there before is there still.
    """
    check_place(out, force=force)
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        check_place(out, force=force)
        _put(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _put(partial: Path, out: Path) -> None:
    before = out.with_name(f".{out.name}.{os.getpid()}.old")
    replaced = out.is_dir()
    if replaced:
        out.replace(before)
    try:
        partial.replace(out)
    except BaseException:
        if replaced:
            before.replace(out)
        raise
    sync_folder(out.parent)
    if replaced:
        shutil.rmtree(before, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(folder)
