"""Checkpoints on disk: written whole or not at all, the newest complete one found, the last K kept.

    checkpoints/.step_00001000.<pid>.tmp/   being written
    checkpoints/.step_00001000.<pid>.old/   being deleted
    checkpoints/step_00001000/checkpoint.pt complete: renamed after everything in it was synced

What `trainer.checkpoint_search` sets aside lies there as well, under other names. Trainer 0 is the
only writer: it holds the run folder's lock.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch

from online_synclr.config import ConfigError
from online_synclr.disk import sync_folder

FILE_NAME = "checkpoint.pt"
END: Final = b"PK\x05\x06"
END_BYTES: Final = 22
"""Of the record that torch's archives end with; they have no comment behind it."""

_COMPLETE = re.compile(r"step_(\d{8,})")
_PARTIAL = re.compile(r"\.step_\d{8,}\.\d+\.(tmp|old)")


def write_checkpoint(
    folder: Path, step: int, state: dict[str, Any], texts: Mapping[str, str]
) -> Path:
    """Write one checkpoint, with `texts` (by file name) beside it, and return its folder.

    A crash at any moment leaves either no checkpoint of this step or a complete one: the files and
    their folder are synced before the rename, the parent after it. A complete one of the same step
    is kept, since it comes from the same run.

    Raises:
        OSError: the disk is full or gone; what was written so far is removed, which leaves its
            room to everything else that the run writes.
    """
    final = folder / f"step_{step:08d}"
    if is_complete(final):
        return final
    partial = _hidden(final, "tmp")
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    try:
        _write_all(partial, state, texts)
        if final.exists():
            shutil.rmtree(final)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder)
    return final


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` complete checkpoints of the highest steps.

    Each is renamed first: a crash half-way leaves something that the next attempt removes. What
    cannot be read or deleted stays, since the checkpoint that was just written is there all the
    same.
    """
    with contextlib.suppress(OSError):
        for path in complete_checkpoints(folder)[:-keep]:
            with contextlib.suppress(OSError):
                shutil.rmtree(path.replace(_hidden(path, "old")))


def remove_partial(folder: Path) -> None:
    """Remove what dead attempts left half written or half deleted.

    Raises:
        OSError: the folder cannot be read.
    """
    for path in entries(folder):
        if _PARTIAL.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def entries(folder: Path) -> list[Path]:
    """Everything in a folder; nothing where there is none.

    Raises:
        OSError: it cannot be read, which does not make it empty.
    """
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def named_checkpoints(folder: Path) -> list[Path]:
    """What has a checkpoint's name, in whatever state, by step, the newest last.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [path for path in entries(folder) if _COMPLETE.fullmatch(path.name)]
    return sorted(found, key=step_of)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints that can be read, by step, the newest last.

    Raises:
        OSError: the folder cannot be read.
    """
    return [path for path in named_checkpoints(folder) if _reads_complete(path)]


def latest(run_dir: Path) -> Path | None:
    """The run's newest complete checkpoint, or None."""
    found = complete_checkpoints(run_dir / "checkpoints")
    return found[-1] if found else None


def is_intact(path: Path) -> bool:
    """Whether a complete checkpoint has the bytes that were written, and torch reads them.

    The whole file is read, at the speed of the disk; its checksums are those that torch wrote.
    Parsing it finds what they do not cover, and reads little more.

    Raises:
        OSError: it cannot be read, which is no sign of damage.
    """
    try:
        with zipfile.ZipFile(path / FILE_NAME) as archive:
            if archive.testzip() is not None:
                return False
        parse_file(path / FILE_NAME)
    except OSError as error:
        # A place that is not in the file: the directory of its parts is damaged.
        if error.errno not in (None, errno.EINVAL):
            raise
        return False
    except MemoryError:
        raise
    except Exception as error:  # whatever damage makes zipfile, pickle and torch raise
        if _is_refused_mapping(error):
            raise OSError(errno.ENOMEM, str(error)) from error
        return False
    return True


def step_of(path: Path) -> int:
    """Steps done before the checkpoint was written, from its folder's name."""
    match = _COMPLETE.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not a checkpoint's name")
    return int(match.group(1))


def is_complete(path: Path) -> bool:
    """Whether the file is there to its end (a copy that was cut off is not).

    Raises:
        OSError: it cannot be read, which is no sign of either.
    """
    try:
        with (path / FILE_NAME).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
            tail = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return len(tail) == END_BYTES and tail.startswith(END)


def complete_file(path: Path) -> Path:
    """The file of a checkpoint folder.

    Raises:
        ConfigError: there is no complete checkpoint, or it cannot be read.
    """
    try:
        complete = is_complete(path)
    except OSError as error:
        raise ConfigError(
            f"run.resume={path} cannot be read ({error.strerror}); mend the disk, or name another "
            "checkpoint."
        ) from None
    if not complete:
        raise ConfigError(
            f"run.resume={path} is not a complete checkpoint; name a folder such as "
            "checkpoints/step_00001000, or use run.resume=auto."
        )
    return path / FILE_NAME


def parse(data: bytes) -> dict[str, Any]:
    """The contents of a checkpoint's bytes, on the CPU. `weights_only`: they can run no code."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def parse_file(file: Path) -> dict[str, Any]:
    """The contents of a checkpoint's file, mapped into memory: pages are read when used."""
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return state


def _save(state: dict[str, Any], handle: IO[bytes]) -> None:
    try:
        torch.save(state, handle)
    except RuntimeError as error:
        # A disk that fills up half-way: closing the archive fails as well, in torch's own words.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _write_all(partial: Path, state: dict[str, Any], texts: Mapping[str, str]) -> None:
    """Everything of a checkpoint, synced, into a folder made for it."""
    partial.mkdir()
    with _synced(partial / FILE_NAME) as handle:
        _save(state, handle)
    for name, text in texts.items():
        with _synced(partial / name) as handle:
            handle.write(text.encode())
    sync_folder(partial)


def _reads_complete(path: Path) -> bool:
    try:
        return is_complete(path)
    except OSError:
        return False


def _is_refused_mapping(error: Exception) -> bool:
    """Whether torch could not open or map the file; it says so in words alone."""
    return isinstance(error, RuntimeError) and str(error).startswith("unable to ")


def _hidden(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.{kind}")


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
