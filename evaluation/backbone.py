"""A frozen backbone as every task sees it, whoever trained it.

Shapes: N images of H x W pixels, p pixels a patch, P prefix tokens, T patch tokens, D features.
"""

from dataclasses import dataclass

import torch
from torch import nn

from evaluation.errors import EvaluationError


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
        # Of some convolutional networks the pooled features pass a layer more, and differ in width.
        width = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        return int(width)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def features(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """What a classifier would be given: float (N, D).

        Of a ViT of this project the class token of the last block, after its norm.

        Args:
            images_N3HW: float, normalised by `mean` and `std`.

        Raises:
            EvaluationError: it pools nothing, and gives one vector for each place.
        """
        features_ND: torch.Tensor = self.model(images_N3HW)
        if features_ND.ndim != 2:
            raise EvaluationError(
                f"{self.name} gives features of shape {tuple(features_ND.shape[1:])} an image "
                "instead of one vector; name a backbone that pools."
            )
        return features_ND

    def patch_tokens(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Tokens of the last block after its norm, in their places: (N, H / p, W / p, D).

        Prefix tokens (class, registers) are left out.

        Raises:
            EvaluationError: it has no tokens, as a convolutional network, or H or W is no multiple
                of p.
        """
        patch_px = patch_side_px(self.model)
        if patch_px is None:
            raise EvaluationError(
                f"{self.name} has no patch tokens; name a vision transformer for this task."
            )
        height, width = images_N3HW.shape[-2:]
        if height % patch_px or width % patch_px:
            raise EvaluationError(
                f"{self.name} takes sides that are multiples of {patch_px}, not {height} x {width}."
            )
        tokens_NTD = _normed_tokens(self.model, images_N3HW)
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        return tokens_NTD[:, prefix:].unflatten(1, (height // patch_px, width // patch_px))


def patch_side_px(model: nn.Module) -> int | None:
    """p of a plain vision transformer; none for other networks, hierarchical ones among them.

    Those have patches, too, but their last tokens are fewer.
    """
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "patch_size", None)
    if size is None or not hasattr(model, "num_prefix_tokens"):
        return None
    rows, columns = (size, size) if isinstance(size, int) else size
    return int(rows) if rows == columns else None


def _normed_tokens(model: nn.Module, images_N3HW: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = model.forward_features(images_N3HW)  # type: ignore[operator]
    norm, pooled_norm = getattr(model, "norm", None), getattr(model, "fc_norm", None)
    # Models that average their tokens call their last norm fc_norm, and apply it after pooling.
    if isinstance(norm, nn.Identity) and pooled_norm is not None:
        tokens = pooled_norm(tokens)
    return tokens
