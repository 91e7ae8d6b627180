"""What the student imitates a frozen teacher with, and how far it is from it.

Shapes: K global crops, T patch tokens of a crop, E embedding dimensions of the student, C and D
dimensions of the teacher's pooled feature and of its patch tokens.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from online_synclr.config.schema import DistillationConfig

INIT_STD = 0.02


class Features(NamedTuple):
    """Of global crops: the pooled feature, and the patch tokens in their places.

    None: the settings give it no weight.
    """

    class_KC: torch.Tensor | None
    patches_KTD: torch.Tensor | None


class DistillationHead(nn.Module):
    """A linear map from the student's tokens to each kind of the teacher's features.

    Linear, so that whatever is learned is in the backbone, the only part that is kept.
    """

    def __init__(
        self, embed_dim: int, settings: DistillationConfig, *, class_dim: int, patch_dim: int
    ) -> None:
        super().__init__()
        self.of_class = nn.Linear(embed_dim, class_dim) if settings.class_weight else None
        self.of_patches = nn.Linear(embed_dim, patch_dim) if settings.patch_weight else None
        for linear in (self.of_class, self.of_patches):
            if linear is not None:
                nn.init.trunc_normal_(linear.weight, std=INIT_STD)
                nn.init.zeros_(linear.bias)

    def forward(self, class_KE: torch.Tensor, patches_KTE: torch.Tensor) -> Features:
        """Imitations of the teacher's features of the same crops."""
        return Features(
            None if self.of_class is None else self.of_class(class_KE),
            None if self.of_patches is None else self.of_patches(patches_KTE),
        )


def distillation_loss(
    imitated: Features, taught: Features, settings: DistillationConfig
) -> torch.Tensor:
    """Weighted sum of the mean cosine distances, 1 - cos, of class and of patch tokens.

    The distance of AM-RADIO (arXiv 2312.06709, section 3.4), which matches both kinds of tokens;
    what it adds for patches, a tenth of smooth L1, fixes their length, which nothing here reads.

    Args:
        imitated: the student's, with gradient.
        taught: the frozen teacher's, of the same crops.
        settings: the weights.

    Returns:
        A float32 scalar, the mean over the crops.
    """
    weights = (settings.class_weight, settings.patch_weight)
    distances = [
        weight * _distance(mine, theirs)
        for weight, mine, theirs in zip(weights, imitated, taught, strict=True)
        if mine is not None and theirs is not None
    ]
    return torch.stack(distances).sum()


def _distance(imitated: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    return 1.0 - functional.cosine_similarity(imitated.float(), taught.float(), dim=-1).mean()
