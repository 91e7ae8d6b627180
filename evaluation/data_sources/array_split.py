"""A split whose images are one array in memory: the small ones of 28 or 32 pixels a side.

Shapes: N images of H x W pixels.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from evaluation.data_sources.images import digest, digest_array
from evaluation.data_sources.labelled import Labelled
from evaluation.splits import Label


class ArraySplit(Labelled):
    """uint8 images, grey (N, H, W) or RGB (N, H, W, 3), and a class's index of each."""

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
    ) -> None:
        super().__init__(name, torch.as_tensor(labels, dtype=torch.int64), class_names)
        self._images = images

    @cached_property
    def identity(self) -> str:
        """Hex digest of the pixels and labels themselves, and the classes."""
        pixels = digest_array(self._images)
        labels = digest_array(self._labels.numpy())
        return digest(self._images.shape, pixels, labels, *self._class_names)

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, and its label."""
        return Image.fromarray(self._images[index]).convert("RGB"), self._label(index)
