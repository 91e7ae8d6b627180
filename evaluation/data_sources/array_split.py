"""A split whose images are one array in memory: the small ones of 28 or 32 pixels a side.

Shapes: N images of H x W pixels.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from evaluation.data_sources.images import digest, digest_array
from evaluation.splits import Label


class ArraySplit:
    """uint8 images, grey (N, H, W) or RGB (N, H, W, 3), and a class's index of each."""

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
    ) -> None:
        self._name = name
        self._images = images
        self._labels = torch.as_tensor(labels, dtype=torch.int64)
        self._class_names = tuple(class_names)

    @property
    def name(self) -> str:
        """Of data set and split."""
        return self._name

    @cached_property
    def identity(self) -> str:
        """Hex digest of the pixels and labels themselves, and the classes."""
        pixels = digest_array(self._images)
        labels = digest_array(self._labels.numpy())
        return digest(self._images.shape, pixels, labels, *self._class_names)

    @property
    def class_names(self) -> Sequence[str]:
        """Names, by index."""
        return self._class_names

    @property
    def labels(self) -> torch.Tensor:
        """Of all images: int64 (N,)."""
        return self._labels

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, and its label."""
        return Image.fromarray(self._images[index]).convert("RGB"), int(self._labels[index])
