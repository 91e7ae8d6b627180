"""Penalised logistic regression: its loss and gradient, computed in closed form, chunk by chunk.

Shapes: N images, n of them in a chunk, D features, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

CHUNK_LOGITS = 1 << 22
"""Logits held at once (32 MiB): memory is bounded by the features, not by images times classes."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is fitted, on one device.

    features_ND: float64. targets: int64 (N,), then one softmax over all classes; or bool (N, C),
    then a sigmoid for each class against the rest.
    """

    features_ND: torch.Tensor
    targets: torch.Tensor
    num_classes: int

    @property
    def num_images(self) -> int:
        """N."""
        return self.features_ND.shape[0]


def loss_and_gradient(
    problem: Problem, weight_CD: torch.Tensor, bias_C: torch.Tensor, l2: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, a scalar, and its gradient by weights (C, D) and biases (C,).

        loss = sum over images of cross-entropy + l2 / 2 * sum of squared weights

    The cross-entropy of a sigmoid is summed over classes, so every class has the problem it would
    have alone. Biases bear no penalty. It is the objective of scikit-learn's and cuML's
    LogisticRegression at C = 1 / l2, and the sum over images is theirs, too: the values of l2 that
    the protocol names mean nothing with another scale.
    """
    loss = 0.5 * l2 * weight_CD.square().sum()
    weight_gradient_CD = l2 * weight_CD
    bias_gradient_C = torch.zeros_like(bias_C)
    residual_of = _softmax_residual if problem.targets.ndim == 1 else _sigmoid_residual
    for features_nD, targets in _chunks(problem):
        logits_nC = torch.addmm(bias_C, features_nD, weight_CD.T)
        chunk_loss, residual_nC = residual_of(logits_nC, targets)
        loss = loss + chunk_loss
        weight_gradient_CD.addmm_(residual_nC.T, features_nD)
        bias_gradient_C += residual_nC.sum(0)
    return loss, weight_gradient_CD, bias_gradient_C


def _chunks(problem: Problem) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = max(1, CHUNK_LOGITS // problem.num_classes)
    yield from zip(problem.features_ND.split(size), problem.targets.split(size), strict=True)


def _softmax_residual(
    logits_nC: torch.Tensor, labels_n: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy, and its gradient by the logits (n, C)."""
    log_probabilities_nC = logits_nC.log_softmax(1)
    own_n1 = labels_n[:, None]
    loss = -log_probabilities_nC.gather(1, own_n1).sum()
    residual_nC = log_probabilities_nC.exp_()
    residual_nC.scatter_add_(1, own_n1, residual_nC.new_full((1, 1), -1.0).expand_as(own_n1))
    return loss, residual_nC


def _sigmoid_residual(
    logits_nC: torch.Tensor, targets_nC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed binary cross-entropy, and its gradient by the logits (n, C)."""
    hits_nC = targets_nC.to(logits_nC.dtype)
    loss = (softplus(logits_nC) - logits_nC * hits_nC).sum()
    return loss, logits_nC.sigmoid() - hits_nC
