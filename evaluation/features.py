"""Features of a split, extracted once, kept, and taken up where a killed run left off.

Shapes: N images, D features, C classes.
"""

from dataclasses import dataclass

import torch

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.splits import LabelledSplit


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """features_ND: float32. labels: int64 (N,), or bool (N, C) where images have several classes.

    Both on the CPU, in the order of the split, the same on all ranks.
    """

    features_ND: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]


def extract_features(
    backbone: FrozenBackbone, split: LabelledSplit, bench: Bench, *, image_px: int | None = None
) -> FeatureTable:
    """Features of every image: shorter side resized, centre crop, no augmentation.

    Args:
        image_px: side of the crop; none: the backbone's own.

    Raises:
        EvaluationError: an image cannot be read.
    """
    raise NotImplementedError
