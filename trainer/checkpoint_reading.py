"""A checkpoint that trainer 0 chose, on every trainer, with a shared file system or without one.

Where every trainer sees the very file, each maps it into memory, and a node's trainers share its
pages; elsewhere trainer 0 sends the bytes. All trainers call `read_everywhere` at the run's start
and wait for each other in it.
"""

from pathlib import Path
from typing import Any

import msgspec
import torch

from trainer import checkpoint_files
from trainer.collectives import broadcast_bytes, gather_bytes
from trainer.distributed import Trainers


class FileStamp(msgspec.Struct, frozen=True):
    """Tells the very file from another one that happens to have its path."""

    path: str
    num_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileStamp | None":
        """The stamp of a file; None when it cannot be seen."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(str(path.absolute()), status.st_size, status.st_mtime_ns)


def read_everywhere(path: Path | None, trainers: Trainers) -> dict[str, Any] | None:
    """The contents of trainer 0's `path` (the others' is not looked at); None when it is None.

    Raises:
        ConfigError: the checkpoint is not complete.
    """
    mine = None
    if trainers.is_first:
        mine = b"" if path is None else msgspec.msgpack.encode(_stamp_complete(path))
    encoded = broadcast_bytes(mine, trainers.cpu_group)
    if not encoded:
        return None
    stamp = msgspec.msgpack.decode(encoded, type=FileStamp)
    if all(gather_bytes(b"seen" if can_see(stamp) else b"", trainers.cpu_group)):
        return checkpoint_files.parse_file(Path(stamp.path))
    data = Path(stamp.path).read_bytes() if trainers.is_first else None
    return checkpoint_files.parse(broadcast_bytes(data, trainers.cpu_group))


def can_see(stamp: FileStamp) -> bool:
    """Whether this trainer sees the file that trainer 0 means."""
    return FileStamp.of(Path(stamp.path)) == stamp


def _stamp_complete(path: Path) -> FileStamp:
    stamp = FileStamp.of(checkpoint_files.complete_file(path))
    assert stamp is not None, "a complete file can be seen"
    return stamp


def as_tensor(data: bytes) -> torch.Tensor:
    """Bytes as a checkpoint holds them: uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def as_bytes(tensor: torch.Tensor) -> bytes:
    """The reverse of `as_tensor`."""
    return tensor.numpy().tobytes()
