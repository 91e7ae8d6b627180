"""What all splits have in common, wherever their images lie.

Shapes: N images, C classes.
"""

from collections.abc import Sequence

import torch


class Labelled:
    """Name, labels and classes of a split.

    labels: int64 (N,), or bool (N, C) where an image may have several classes.
    """

    def __init__(self, name: str, labels: torch.Tensor, class_names: Sequence[str]) -> None:
        self._name = name
        self._labels = labels
        self._class_names = tuple(class_names)

    @property
    def name(self) -> str:
        """Of data set and split."""
        return self._name

    @property
    def class_names(self) -> Sequence[str]:
        """C names, by index."""
        return self._class_names

    @property
    def labels(self) -> torch.Tensor:
        """Of all images, without reading one."""
        return self._labels

    def __len__(self) -> int:
        """Images."""
        return len(self._labels)

    def _label(self, index: int) -> int | torch.Tensor:
        label = self._labels[index]
        return label if label.ndim else int(label)
