"""Reading one image, and telling whether files have changed."""

import hashlib
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from evaluation.errors import EvaluationError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is damaged, or no image. SyntaxError: a broken PNG."""


def is_image(name: str) -> bool:
    """Whether a file of that name counts as an image; hidden ones never do."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def open_rgb(file: Path | bytes, shown: str) -> Image.Image:
    """An image decoded, RGB, in its own size. Its EXIF orientation is left alone.

    So does torchvision, with which the published figures were made.

    Args:
        file: its path, or what it holds.
        shown: what an error calls it.

    Raises:
        EvaluationError: it is missing or unreadable.
    """
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise EvaluationError(
            f"the image {shown} cannot be read ({reason}); replace it, or take it out of the data "
            "set."
        ) from None


def digest(*parts: object) -> str:
    """Hex digest of the parts' texts, 128 bits."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = str(part).encode("utf-8", "surrogateescape")
        state.update(len(text).to_bytes(8, "little"))
        state.update(text)
    return state.hexdigest()


def digest_array(array: np.ndarray) -> str:
    """Hex digest of an array's values; not of its shape."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


def digest_files(root: Path, names: Iterable[str]) -> str:
    """Hex digest of files' names below `root`, sizes and modification times; not of their bytes.

    Reading a whole data set to name it would take as long as judging a backbone on it. A file that
    is rewritten with the same size and time is not noticed; a copy with new times counts as new.

    Raises:
        EvaluationError: one is missing.
    """
    state = hashlib.blake2b(digest_size=16)
    for name in names:
        path = os.path.join(root, name)
        try:
            status = os.stat(path)
        except OSError as error:
            raise EvaluationError(
                f"{path} belongs to the data set, but cannot be read ({error.strerror}); unpack or "
                "copy it again."
            ) from None
        state.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="replace"))
    return state.hexdigest()
