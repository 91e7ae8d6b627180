"""What the head sees of an image: random crops while it is trained, the whole while it is judged.

mmsegmentation's pipeline for ADE20k, as the paper used it, without its colour changes: resized by
0.5 to 2 times what brings the shorter side to P (the longer to 4 P at most), a crop of P x P in
which no class takes more than 75 %, flipped or not.

Shapes: P pixels a side of the crop, H x W pixels of an image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from evaluation.segmentation.classes import IGNORED

MAX_ASPECT = 4
RESIZED_BY = (0.5, 2.0)
MAX_CLASS_SHARE = 0.75
CROP_TRIES = 10


@dataclass(frozen=True, eq=False)
class View:
    """image_3HW: uint8. labels_HW: int16 class indices or `IGNORED`, of another size if whole."""

    image_3HW: torch.Tensor
    labels_HW: torch.Tensor


def whole_view(image: Image.Image, labels_HW: np.ndarray, crop_px: int) -> View:
    """The image at the size that crops of `crop_px` are trained at; labels in their own size."""
    resized = image.resize(_scaled(image.size, crop_px, 1.0), Image.Resampling.BILINEAR)
    return View(_pixels(resized), torch.from_numpy(labels_HW))


def random_crop(
    image: Image.Image,
    labels_HW: np.ndarray,
    crop_px: int,
    fill: tuple[int, int, int],
    random: np.random.Generator,
) -> View:
    """A training crop, (3, P, P) and (P, P).

    Args:
        fill: colour of what an image smaller than the crop leaves empty; its label is `IGNORED`.
    """
    size = _scaled(image.size, crop_px, random.uniform(*RESIZED_BY))
    labels = Image.fromarray(labels_HW.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    box = _box(np.asarray(labels), crop_px, random)
    pixels_HW3 = np.asarray(image.resize(size, Image.Resampling.BILINEAR).crop(box))
    crop_HW = np.asarray(labels.crop(box)).astype(np.int16)
    height, width = max(size[1] - box[1], 0), max(size[0] - box[0], 0)
    inside = np.zeros((crop_px, crop_px), dtype=bool)
    inside[:height, :width] = True
    pixels_HW3 = np.where(inside[..., None], pixels_HW3, np.array(fill, dtype=np.uint8))
    crop_HW = np.where(inside, crop_HW, np.int16(IGNORED))
    if random.random() < 0.5:
        pixels_HW3, crop_HW = pixels_HW3[:, ::-1], crop_HW[:, ::-1]
    return View(
        torch.from_numpy(np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1))),
        torch.from_numpy(np.ascontiguousarray(crop_HW)),
    )


def _scaled(size: tuple[int, int], crop_px: int, factor: float) -> tuple[int, int]:
    short, long = sorted(size)
    scale = factor * min(crop_px / short, MAX_ASPECT * crop_px / long)
    width, height = (max(round(side * scale), 1) for side in size)
    return width, height


def _box(
    labels_HW: np.ndarray, crop_px: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the first of some crops in which no class is nearly all."""
    height, width = labels_HW.shape
    for _ in range(CROP_TRIES):
        top = int(random.integers(max(height - crop_px, 0) + 1))
        left = int(random.integers(max(width - crop_px, 0) + 1))
        within = labels_HW[top : top + crop_px, left : left + crop_px]
        _, counts = np.unique(within[within != IGNORED], return_counts=True)
        if len(counts) > 1 and counts.max() < MAX_CLASS_SHARE * counts.sum():
            break
    return left, top, left + crop_px, top + crop_px


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
