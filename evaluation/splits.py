"""Labelled images as every task sees them, wherever they lie.

Shapes: C classes.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from PIL import Image

SplitName = Literal["train", "val", "test"]

Label = int | torch.Tensor
"""A class's index, or where an image may have several, bool (C,)."""


class LabelledSplit(Protocol):
    """One split of a data set: images and their labels, in an order that never changes."""

    @property
    def name(self) -> str:
        """Of data set and split, as tables show it."""

    @property
    def identity(self) -> str:
        """Hex digest; equal identities hold the same images in the same order."""

    @property
    def class_names(self) -> Sequence[str]:
        """C names, by index."""

    def __len__(self) -> int:
        """Images."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, in its own size, and its label. Raises EvaluationError: unreadable."""


class LabelledData(Protocol):
    """A data set: its splits. What has only one split has it as `train`."""

    @property
    def name(self) -> str:
        """As tables show it."""

    @property
    def split_names(self) -> Sequence[SplitName]:
        """Those it has."""

    def split(self, name: SplitName) -> LabelledSplit:
        """One of them."""
