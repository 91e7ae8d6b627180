"""The heads on top of the backbone.

Projector and predictor are MLPs with layer normalisation, GELU and a last layer normalisation
without scale, as in the authors' public code (its default; batch normalisation is an option there).
Layer normalisation is also what fits an online run: statistics over a batch would tell the images
of one group from the others, have to be synchronised over the trainers, and do not exist in a
synchronised form on CPUs. With it one rank and many compute the same function.

Shapes: N rows, Z output features, K prototypes.
"""

import torch
from torch import nn
from torch.nn import functional

from online_synclr.config.schema import ContrastiveConfig, MimConfig

INIT_STD = 0.02


def build_projector(embed_dim: int, settings: ContrastiveConfig) -> nn.Module:
    """CLS token -> features to contrast: (N, E) -> (N, out_dim), not normalised to length one."""
    return _mlp(settings.projector_layers, embed_dim, settings.projector_hidden, settings.out_dim)


def build_predictor(settings: ContrastiveConfig) -> nn.Module:
    """Student projection -> prediction of the teacher's: (N, out_dim) -> (N, out_dim)."""
    if not settings.predictor_layers:
        return nn.Identity()
    return _mlp(
        settings.predictor_layers, settings.out_dim, settings.predictor_hidden, settings.out_dim
    )


class MimHead(nn.Module):
    """Patch token -> L2-normalised bottleneck feature; holds the prototypes (iBOT, DINO).

    The logits are features @ prototypes.t(); they are left to the loss, which computes them in
    chunks.
    """

    def __init__(self, embed_dim: int, settings: MimConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = embed_dim
        for _ in range(settings.layers - 1):
            layers += [nn.Linear(width, settings.hidden), nn.GELU()]
            width = settings.hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, settings.bottleneck))
        self.apply(_init_linear)
        self.direction = nn.Parameter(torch.empty(settings.prototypes, settings.bottleneck))
        self.gain = nn.Parameter(torch.ones(settings.prototypes, 1))
        nn.init.trunc_normal_(self.direction, std=INIT_STD)

    def forward(self, tokens_RE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of tokens (R, E).

        Returns:
            `features_RZ`, of length one, and `prototypes_KZ`, gain * direction / |direction|
            (weight normalisation), float32.
        """
        features_RZ = functional.normalize(self.mlp(tokens_RE), dim=-1)
        return features_RZ, self.gain * functional.normalize(self.direction, dim=-1)


def _mlp(num_layers: int, width: int, hidden: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU()]
        width = hidden
    layers += [nn.Linear(width, out, bias=False), nn.LayerNorm(out, elementwise_affine=False)]
    return nn.Sequential(*layers).apply(_init_linear)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
