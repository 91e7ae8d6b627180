"""The three metrics, against scikit-learn and against their definitions written out."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from evaluation.finegrained.metrics import map_11point, mean_per_class, top1

C = 5


def _scores(seed: int, num_images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, C, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_are_scikit_learns(seed: int) -> None:
    scores_NC = _scores(seed, 60)
    # One class in two images only, another in none.
    labels_N = torch.tensor([0, 1, 2] * 19 + [3, 3, 0])
    scores_NC[torch.arange(0, 60, 2), labels_N[::2]] += 3
    scores_NC[:, 4] -= 10
    predicted_N = scores_NC.argmax(1)
    assert top1(scores_NC, labels_N) == pytest.approx(accuracy_score(labels_N, predicted_N))
    balanced = balanced_accuracy_score(labels_N, predicted_N)
    assert mean_per_class(scores_NC, labels_N) == pytest.approx(balanced)
    assert balanced != pytest.approx(accuracy_score(labels_N, predicted_N))


def _naive_average_precision(scores: np.ndarray, hits: np.ndarray) -> Fraction:
    """One operating point for each score that occurs; for each level the best that reaches it."""
    points = []
    for threshold in set(scores.tolist()):
        taken = scores >= threshold
        found = int(hits[taken].sum())
        points.append((Fraction(found, int(hits.sum())), Fraction(found, int(taken.sum()))))
    levels = [Fraction(step, 10) for step in range(11)]
    return sum(max(p for r, p in points if r >= level) for level in levels) / Fraction(11)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_images", [3, 40])
def test_11_point_precision_is_the_definition(seed: int, num_images: int) -> None:
    # Rounded, so that scores are equal often.
    scores_NC = _scores(seed, num_images).mul(3).round()
    targets_NC = _scores(seed + 100, num_images) > 0.5
    targets_NC[0, :-1] = True
    targets_NC[:, -1] = False
    naive = [
        _naive_average_precision(scores_NC[:, c].numpy(), targets_NC[:, c].numpy())
        for c in range(C - 1)
    ]
    expected = float(sum(naive) / Fraction(len(naive)))
    assert map_11point(scores_NC, targets_NC) == pytest.approx(expected, abs=1e-12)


def test_11_point_precision_by_hand() -> None:
    """Right, wrong, right: precision 1 up to a recall of 1/2, then 2/3."""
    scores_N1 = torch.tensor([[3.0], [2.0], [1.0]])
    targets_N1 = torch.tensor([[True], [False], [True]])
    assert map_11point(scores_N1, targets_N1) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_recall_of_3_in_10_reaches_three_tenths() -> None:
    """In floating point 3 * 0.1 is more than 0.3."""
    targets_N1 = torch.ones(13, 1, dtype=torch.bool)
    targets_N1[3:6] = False
    scores_N1 = torch.arange(13, 0, -1).double()[:, None]
    rest = 10 / 13
    assert map_11point(scores_N1, targets_N1) == pytest.approx((4 * 1 + 7 * rest) / 11)
