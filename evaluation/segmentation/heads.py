"""Linear heads on frozen tokens, one a learning rate, behind one batch norm.

The norm has no scale and shift of its own: the linear map behind it takes those in. Its statistics
are the same for all heads, since no head changes the tokens.

Shapes: T tokens, D features, C classes, L heads.
"""

import torch
import torch.distributed as dist
from torch import nn

MOMENTUM = 0.1
EPSILON = 1e-5
INITIAL_STD = 0.01
"""As mmsegmentation's decode heads begin."""


class TokenNorm(nn.Module):
    """Batch norm over tokens, without affine parameters; a batch is that of all ranks together.

    What it is given takes no gradient, so neither do the statistics.
    """

    mean_D: torch.Tensor
    var_D: torch.Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(num_features))
        self.register_buffer("var_D", torch.ones(num_features))

    @torch.no_grad()
    def update(self, tokens_TD: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        """Normalise by the batch's statistics, and take them into the running ones.

        Waits for the other ranks of `group`.
        """
        # In float64: features whose mean is far larger than their deviation keep their variance.
        exact_TD = tokens_TD.double()
        num_tokens = exact_TD.new_full((1,), len(exact_TD))
        sums = torch.cat([num_tokens, exact_TD.sum(0), exact_TD.square().sum(0)])
        if group is not None:
            dist.all_reduce(sums, group=group)
        count, mean_D, square_D = sums[0], *(sums[1:] / sums[0]).chunk(2)
        var_D = (square_D - mean_D.square()).clamp_min(0)
        unbiased_D = var_D * count / (count - 1).clamp_min(1)
        self.mean_D.lerp_(mean_D.float(), MOMENTUM)
        self.var_D.lerp_(unbiased_D.float(), MOMENTUM)
        return _normalised(tokens_TD, mean_D.float(), var_D.float())

    @torch.no_grad()
    def forward(self, tokens_XD: torch.Tensor) -> torch.Tensor:
        """Normalise by the running statistics; features are last."""
        return _normalised(tokens_XD, self.mean_D, self.var_D)


class LinearHeads(nn.Module):
    """L maps of D features to C classes, which all begin alike."""

    def __init__(self, num_heads: int, num_features: int, num_classes: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        first_CD = torch.randn(num_classes, num_features, generator=random) * INITIAL_STD
        self.weights = nn.ParameterList([first_CD.clone() for _ in range(num_heads)])
        self.biases = nn.ParameterList([torch.zeros(num_classes) for _ in range(num_heads)])

    def __len__(self) -> int:
        """L."""
        return len(self.weights)

    def logits(self, head: int, tokens_NhwD: torch.Tensor) -> torch.Tensor:
        """One head's, (N, C, h, w), of normalised tokens in their places."""
        logits = nn.functional.linear(tokens_NhwD, self.weights[head], self.biases[head])
        return logits.movedim(-1, 1)

    def parameters_of(self, head: int) -> list[nn.Parameter]:
        """One head's."""
        return [self.weights[head], self.biases[head]]


def _normalised(tokens_XD: torch.Tensor, mean_D: torch.Tensor, var_D: torch.Tensor) -> torch.Tensor:
    return (tokens_XD - mean_D) * (var_D + EPSILON).rsqrt()
