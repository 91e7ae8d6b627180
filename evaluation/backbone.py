"""A frozen backbone as every task sees it, whoever trained it.

Shapes: N images of H x W pixels, p pixels a patch, D features.
"""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A timm model without a classifier, in evaluation mode, whose weights take no gradient.

    name: as tables show it. origin: where its weights come from, one sentence. mean, std: of its
    input, per channel, of pixels from 0 to 1. image_px: side of the square input it is made for.
    identity: hex digest over weights, architecture and input; equal identities give equal features,
    so caches are keyed by it.
    """

    name: str
    origin: str
    model: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_px: int
    identity: str

    @property
    def feature_dim(self) -> int:
        """D."""
        return int(self.model.num_features)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def features(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """What a classifier would be given: float (N, D).

        Of a ViT of this project the class token of the last block, after its norm.

        Args:
            images_N3HW: float, normalised by `mean` and `std`.
        """
        features_ND: torch.Tensor = self.model(images_N3HW)
        return features_ND

    def patch_tokens(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Tokens of the last block after its norm, in their places: (N, H / p, W / p, D).

        Raises:
            ValueError: it has no tokens, as a convolutional network.
        """
        raise NotImplementedError
