"""The affine-free batch norm before the heads.

It has nothing to learn and the features beneath it are frozen, so no gradient passes through it.

Shapes: N images, D features.
"""

import torch
from torch import nn

from evaluation.bench import Bench
from evaluation.linear.protocol import NORM_EPS, NORM_MOMENTUM
from evaluation.linear.ranks import sum_over_ranks

CHUNK_IMAGES = 65_536


class FeatureNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps), without scale and shift.

    `exact`: the statistics of all training features, known before training, for training and
    evaluation alike. Otherwise those of each step's whole batch over all ranks while training, and
    their running means afterwards, as torch's SyncBatchNorm, which has no CPU implementation.
    """

    mean_D: torch.Tensor
    variance_D: torch.Tensor

    def __init__(self, feature_dim: int, *, exact: bool) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("mean_D", torch.zeros(feature_dim))
        self.register_buffer("variance_D", torch.ones(feature_dim))

    @classmethod
    def of(cls, features_ND: torch.Tensor) -> "FeatureNorm":
        """The exact one of a training set's features."""
        norm = cls(features_ND.shape[1], exact=True)
        chunks = features_ND.split(CHUNK_IMAGES)
        sum_D = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0)
        mean_D = sum_D / len(features_ND)
        squares = [(chunk.double() - mean_D).square().sum(0) for chunk in chunks]
        norm.mean_D.copy_(mean_D)
        norm.variance_D.copy_(torch.stack(squares).sum(0) / len(features_ND))
        return norm

    def evaluate(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Normalised by the statistics that training left."""
        return _normalised(features_ND, self.mean_D, self.variance_D)

    @torch.no_grad()
    def train_step(self, features_ND: torch.Tensor, bench: Bench) -> torch.Tensor:
        """This rank's part of a batch, normalised; waits for the other ranks where not exact."""
        if self.exact:
            return self.evaluate(features_ND)
        mean_D, variance_D, count_1 = _batch_statistics(features_ND, bench)
        # As torch: the running variance is the unbiased estimate.
        unbiased_D = variance_D * count_1 / (count_1 - 1).clamp_min(1)
        self.mean_D.lerp_(mean_D, NORM_MOMENTUM)
        self.variance_D.lerp_(unbiased_D, NORM_MOMENTUM)
        return _normalised(features_ND, mean_D, variance_D)


def _batch_statistics(
    features_ND: torch.Tensor, bench: Bench
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, biased variance and number of images over all ranks, without waiting for the device.

    Sums are float64, since a variance from sums of squares cancels.
    """
    wide_ND = features_ND.double()
    own_count_1 = wide_ND.new_tensor([len(wide_ND)])
    sums = torch.cat([wide_ND.sum(0), wide_ND.square().sum(0), own_count_1])
    sum_over_ranks(sums, bench)
    count_1 = sums[-1:]
    mean_D, square_D = (sums[:-1] / count_1).chunk(2)
    variance_D = (square_D - mean_D.square()).clamp_min(0)
    return mean_D.float(), variance_D.float(), count_1.float()


def _normalised(
    features_ND: torch.Tensor, mean_D: torch.Tensor, variance_D: torch.Tensor
) -> torch.Tensor:
    return (features_ND - mean_D) * (variance_D + NORM_EPS).rsqrt()
