"""Part of a train split held out, for tasks that choose on a validation part where there is none.

Shapes: N images, C classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from evaluation.data_sources.images import digest
from evaluation.errors import EvaluationError
from evaluation.splits import Label, LabelledSplit


def stratified_indices(
    labels: torch.Tensor, share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the images kept and of those held out, each int64 and rising.

    Of every class `share` of its images is held out, rounded, but at least one of two or more, and
    never all. Images of several classes are divided by the set of their classes. The same on every
    machine: numpy promises that `RandomState`'s stream stays as it is.

    Args:
        labels: int64 (N,), or bool (N, C).
        share: above 0 and below 1.

    Raises:
        ValueError: a share outside of that.
        EvaluationError: no class has two images.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} held out of a split")
    _, group_N = np.unique(labels.numpy(), axis=0, return_inverse=True)
    random = np.random.RandomState(seed)
    held: list[int] = []
    for group in range(int(group_N.max(initial=-1)) + 1):
        (members,) = np.nonzero(group_N.reshape(-1) == group)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held += random.permutation(members)[:count].tolist()
    if not held:
        raise EvaluationError(
            f"no class of {len(labels)} images has two of them, so none can be held out; give a "
            "data set with more images of a class, or with a val split."
        )
    is_held_N = torch.zeros(len(labels), dtype=torch.bool)
    is_held_N[held] = True
    return (~is_held_N).nonzero()[:, 0], is_held_N.nonzero()[:, 0]


def holdout(
    split: LabelledSplit, share: float = 0.2, seed: int = 0
) -> tuple["PartOfSplit", "PartOfSplit"]:
    """A split divided by class into what is kept and what is held out (`stratified_indices`).

    Where features of the whole split are wanted as well, extract those once and divide the table
    by `stratified_indices(table.labels, ...)` instead: it is the same division.
    """
    kept, held = stratified_indices(labels_of(split), share, seed)
    return (
        PartOfSplit(f"{split.name} (kept)", split, kept),
        PartOfSplit(f"{split.name} (held out)", split, held),
    )


def labels_of(split: LabelledSplit) -> torch.Tensor:
    """Labels of all images: int64 (N,), or bool (N, C).

    The splits of `evaluation.data_sources` know them; of another one every image is read.
    """
    known: torch.Tensor | None = getattr(split, "labels", None)
    if known is not None:
        return known
    return torch.stack([torch.as_tensor(split[index][1]) for index in range(len(split))])


class PartOfSplit:
    """Some images of a split, in its order."""

    def __init__(self, name: str, whole: LabelledSplit, indices: torch.Tensor) -> None:
        self._name = name
        self._whole = whole
        self._indices = indices

    @property
    def name(self) -> str:
        """Of data set, split and part."""
        return self._name

    @property
    def identity(self) -> str:
        """Hex digest of the whole split's identity and of which images these are."""
        return digest(self._whole.identity, self._indices.tolist())

    @property
    def class_names(self) -> Sequence[str]:
        """The whole split's."""
        return self._whole.class_names

    @property
    def labels(self) -> torch.Tensor:
        """Of these images: int64 (N,) or bool (N, C)."""
        return labels_of(self._whole)[self._indices]

    def __len__(self) -> int:
        """Images."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, and its label. Raises EvaluationError: unreadable."""
        return self._whole[int(self._indices[index])]
