"""Small labelled data sets on disk, made for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side_px: int = 12) -> Image.Image:
    """A small picture of noise that is its seed's own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px + 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_pictures(folder: Path, names: Iterable[str], seed: int = 0) -> None:
    """One picture a name, each different; folders are made."""
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed + index).save(path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
