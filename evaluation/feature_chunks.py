"""Features on disk, in chunks that appear whole: what is left of a run that was killed.

    <cache>/features/<key>/about.json            for people: whose features these are
    <cache>/features/<key>/00007.safetensors     features and labels of one chunk of images

Chunks depend on the number of images alone, so that ranks of any number find the same ones. A
chunk is renamed when it is written, and has a checksum over its bytes: files are not synced, since
one that a power cut left torn is found and computed again. The key is a digest of everything that
features depend on, but for rounding (device, versions of libraries, batch).

Shapes: N images of a chunk, D features, C classes.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = 1
"""Raised when features of the same key would be others, or are stored otherwise."""
SMALLEST_CHUNK_IMAGES = 64
LARGEST_CHUNK_IMAGES = 1024
_CHUNKS_WANTED = 64
"""Enough for several ranks to share a small data set, few enough files for a large one."""
_LEFT_OVER_S = 3600.0


@dataclass(frozen=True)
class Span:
    """The images `start` up to `end` of a split, which are chunk `index`."""

    index: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Chunk:
    """features_ND: float32. labels: int64 (N,) or bool (N, C). Both on the CPU."""

    features_ND: torch.Tensor
    labels: torch.Tensor


def spans_of(num_images: int) -> list[Span]:
    """The chunks of a split: of 64 to 1024 images, a multiple of 64; about 64 chunks if it can."""
    unit = SMALLEST_CHUNK_IMAGES
    wanted = -(-num_images // (_CHUNKS_WANTED * unit)) * unit
    size = min(max(wanted, unit), LARGEST_CHUNK_IMAGES)
    starts = range(0, num_images, size)
    return [Span(index, start, min(start + size, num_images)) for index, start in enumerate(starts)]


class ChunkFolder:
    """The chunks of one backbone's features of one split; `folder=None`: nothing is kept.

    Args:
        facts: all that the features depend on; plain JSON values. They make the key.
        about: further facts for people.
        say: told once of each kind of trouble.
    """

    def __init__(
        self,
        cache_dir: Path | None,
        facts: Mapping[str, object],
        about: Mapping[str, object],
        say: Callable[[str], None],
    ) -> None:
        text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._about = {**about, **facts}
        self._say = say
        self._folder = None if cache_dir is None else cache_dir / "features" / self._key
        if self._folder is not None:
            self._open(self._folder)

    def has(self, span: Span) -> bool:
        """Whether there is a file of that chunk, in whatever state."""
        return self._folder is not None and _path(self._folder, span).is_file()

    def read(self, span: Span) -> Chunk | None:
        """A chunk; None, and its file removed, where it is damaged."""
        if self._folder is None:
            return None
        path = _path(self._folder, span)
        try:
            chunk = self._parse(path)
            if len(chunk.features_ND) == len(chunk.labels) == len(span):
                return chunk
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            pass
        self._say(f"kept features in {path} are damaged; they are computed again")
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def write(self, span: Span, chunk: Chunk) -> None:
        """Keep a chunk. A full disk is said, and nothing is kept from there on."""
        if self._folder is None:
            return
        path = _path(self._folder, span)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(
                {"features": chunk.features_ND, "labels": chunk.labels},
                temporary,
                metadata={"checksum": self._checksum(chunk)},
            )
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            self._give_up(error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about = folder / "about.json"
            if not about.exists():
                about.write_text(json.dumps(self._about, indent=1) + "\n", encoding="utf-8")
            _remove_left_over(folder)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._say(f"features cannot be kept in {self._folder} ({error}); going on without")
        self._folder = None

    def _parse(self, path: Path) -> Chunk:
        """Raises: whatever damage makes safetensors, numpy and this method raise."""
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {})["checksum"]
            chunk = Chunk(file.get_tensor("features"), file.get_tensor("labels"))
        if checksum != self._checksum(chunk):
            raise ValueError("the checksum is another")
        return chunk

    def _checksum(self, chunk: Chunk) -> str:
        """Over both tensors and the key: a file that was moved here is found, too."""
        digest = xxhash.xxh3_128(self._key.encode())
        for tensor in (chunk.features_ND, chunk.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _path(folder: Path, span: Span) -> Path:
    return folder / f"{span.index:05d}.safetensors"


def _remove_left_over(folder: Path) -> None:
    """What killed processes were writing; another one may be writing here now."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                path.unlink()
