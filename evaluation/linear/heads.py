"""One linear classifier a learning rate, over the same features.

Shapes: N images, D features, C classes, H heads.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from evaluation.linear.protocol import INITIAL_STD
from online_synclr.seeds import derive_seed


class JointHeads(nn.Module):
    """H classifiers as one matrix product. All start from the same weights.

    What a head learns depends on its learning rate alone, not on which others are trained with it.
    """

    def __init__(self, num_heads: int, num_classes: int, feature_dim: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(derive_seed("linear probe heads", seed))
        weight_CD = INITIAL_STD * torch.randn(num_classes, feature_dim, generator=generator)
        self.weight_HCD = nn.Parameter(weight_CD.repeat(num_heads, 1, 1))
        self.bias_HC = nn.Parameter(torch.zeros(num_heads, num_classes))

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, H, C) of normalised features."""
        logits = linear(features_ND, self.weight_HCD.flatten(0, 1), self.bias_HC.flatten())
        return logits.unflatten(1, self.bias_HC.shape)

    def summed_loss(self, features_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """Each head's cross-entropy, summed over the images: (H,)."""
        logits_NHC = self(features_ND)
        num_heads = logits_NHC.shape[1]
        # As N x H images: a softmax over what is not the last dimension takes twice as long.
        losses = cross_entropy(
            logits_NHC.flatten(0, 1), labels_N.repeat_interleave(num_heads), reduction="none"
        )
        return losses.view(-1, num_heads).sum(0)

    @torch.no_grad()
    def finite(self) -> torch.Tensor:
        """Which heads have not diverged: bool (H,)."""
        return self.weight_HCD.isfinite().all(2).all(1) & self.bias_HC.isfinite().all(1)
