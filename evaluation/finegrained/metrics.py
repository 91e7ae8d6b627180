"""What a classifier's scores on a test split are worth: the three metrics of the nine data sets.

Shapes: N images, C classes, T = 11 recall levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

NUM_RECALL_STEPS = 10
"""The 11 levels of recall are 0, 1/10 ... 10/10."""


def top1(scores_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Share of images whose class has the highest score."""
    return (scores_NC.argmax(1) == labels_N).double().mean().item()


def mean_per_class(scores_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Mean over classes of the share of their images that are right: balanced accuracy.

    Classes without an image do not count.
    """
    num_classes = scores_NC.shape[1]
    images_C = torch.bincount(labels_N, minlength=num_classes)
    right_C = torch.bincount(labels_N[scores_NC.argmax(1) == labels_N], minlength=num_classes)
    shares_C = right_C.double() / images_C
    return shares_C[images_C > 0].mean().item()


def map_11point(scores_NC: torch.Tensor, targets_NC: torch.Tensor) -> float:
    """Mean over classes of the 11-point interpolated average precision of VOC2007.

    AP = 1/11 sum over r in {0, 0.1 ... 1} of the highest precision at a recall of r or more

    (Everingham et al., "The PASCAL Visual Object Classes Challenge", section 4.2.) A precision
    counts at each score that occurs, so images of equal score have no order. Recalls are compared
    as fractions: 3 of 10 reaches 0.3. Classes without an image do not count.
    """
    classes = targets_NC.any(0).nonzero()[:, 0].tolist()
    precisions = [
        _average_precision(scores_NC[:, index], targets_NC[:, index]) for index in classes
    ]
    return torch.stack(precisions).mean().item()


def _average_precision(scores_N: torch.Tensor, hits_N: torch.Tensor) -> torch.Tensor:
    ordered_N, order_N = scores_N.sort(descending=True)
    found_N = hits_N[order_N].cumsum(0)
    rank_N = torch.arange(1, len(found_N) + 1, device=found_N.device)
    is_last_of_its_score_N = torch.ones_like(hits_N)
    is_last_of_its_score_N[:-1] = ordered_N[1:] != ordered_N[:-1]
    found_N, rank_N = found_N[is_last_of_its_score_N], rank_N[is_last_of_its_score_N]
    precision_N = found_N.double() / rank_N
    # Recall only grows down the ranking: the best from here on is a maximum from the end.
    best_N = precision_N.flip(0).cummax(0).values.flip(0)
    level_T = torch.arange(NUM_RECALL_STEPS + 1, device=found_N.device) * found_N[-1]
    first_T = torch.searchsorted(found_N * NUM_RECALL_STEPS, level_T)
    return best_N[first_T].mean()


@dataclass(frozen=True)
class Metric:
    """score: of scores (N, C) and labels, int64 (N,), or bool (N, C) where `several_classes`."""

    name: str
    several_classes: bool
    score: Callable[[torch.Tensor, torch.Tensor], float]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", False, top1),
        Metric("mean_per_class", False, mean_per_class),
        Metric("map_11point", True, map_11point),
    )
}
