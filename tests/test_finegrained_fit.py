"""The logistic regression agrees with scikit-learn's, and says how far it got."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from evaluation.finegrained import objective
from evaluation.finegrained.fit import Fit, fit
from evaluation.finegrained.objective import Problem, loss_and_gradient

N, D, C = 90, 6, 4
TIGHT = 1e-7
"""Gradient at which coefficients are known to more digits than are compared here."""


@pytest.fixture(scope="module")
def features_ND() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture(scope="module")
def labels_N(features_ND: torch.Tensor) -> torch.Tensor:
    """Classes that overlap, so that every penalty has an optimum at a finite place."""
    generator = torch.Generator().manual_seed(4)
    noise_NC = 2.0 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    return (features_ND[:, :C] + noise_NC).argmax(1)


def _fit(problem: Problem, l2: float, tolerance: float = TIGHT, max_iterations: int = 1000) -> Fit:
    return fit(problem, l2, max_iterations=max_iterations, tolerance=tolerance)


def _sklearn(l2: float) -> LogisticRegression:
    return LogisticRegression(C=1 / l2, solver="lbfgs", tol=TIGHT, max_iter=10_000)


@pytest.mark.parametrize("l2", [1e3, 1.0, 1e-2, 1e-5])
def test_softmax_has_scikit_learns_coefficients(
    features_ND: torch.Tensor, labels_N: torch.Tensor, l2: float
) -> None:
    found = _fit(Problem(features_ND, labels_N, C), l2)
    reference = _sklearn(l2).fit(features_ND.numpy(), labels_N.numpy())
    assert found.converged
    np.testing.assert_allclose(found.classifier.weight_CD, reference.coef_, rtol=1e-3, atol=1e-5)
    # The softmax is blind to what all biases have in common.
    bias_C = found.classifier.bias_C - found.classifier.bias_C.mean()
    expected_C = reference.intercept_ - reference.intercept_.mean()
    np.testing.assert_allclose(bias_C, expected_C, rtol=1e-3, atol=1e-5)
    predicted_N = found.classifier.scores(features_ND).argmax(1)
    np.testing.assert_array_equal(predicted_N, reference.predict(features_ND.numpy()))


@pytest.mark.parametrize("l2", [1e2, 1.0, 1e-3])
def test_one_against_rest_is_each_class_alone(
    features_ND: torch.Tensor, labels_N: torch.Tensor, l2: float
) -> None:
    targets_NC = torch.nn.functional.one_hot(labels_N, C).bool()
    targets_NC[::5, 0] = True
    found = _fit(Problem(features_ND, targets_NC, C), l2)
    assert found.converged
    for index in range(C):
        alone = _sklearn(l2).fit(features_ND.numpy(), targets_NC[:, index].numpy())
        weight_D, bias = found.classifier.weight_CD[index], found.classifier.bias_C[index]
        np.testing.assert_allclose(weight_D, alone.coef_[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(bias, alone.intercept_[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_gradient_is_autograds_in_chunks_too(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    several: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = torch.nn.functional.one_hot(labels_N, C).bool() if several else labels_N
    weight_CD = torch.randn(C, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    bias_C = torch.arange(C, dtype=torch.float64)
    weight_CD.requires_grad_()
    bias_C.requires_grad_()
    logits_NC = features_ND @ weight_CD.T + bias_C
    if several:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits_NC, targets.double(), reduction="sum"
        )
    else:
        entropy = torch.nn.functional.cross_entropy(logits_NC, targets, reduction="sum")
    expected = entropy + 0.5 * 0.7 * weight_CD.square().sum()
    expected.backward()

    monkeypatch.setattr(objective, "CHUNK_LOGITS", 7 * C)
    with torch.no_grad():
        problem = Problem(features_ND, targets, C)
        loss, by_weight_CD, by_bias_C = loss_and_gradient(problem, weight_CD, bias_C, 0.7)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(by_weight_CD, weight_CD.grad)
    torch.testing.assert_close(by_bias_C, bias_C.grad)


def test_where_it_starts_changes_only_the_way(
    features_ND: torch.Tensor, labels_N: torch.Tensor
) -> None:
    problem = Problem(features_ND, labels_N, C)
    near = _fit(problem, 2.0)
    cold = _fit(problem, 1.0)
    warm = fit(problem, 1.0, start=near.classifier, max_iterations=1000, tolerance=TIGHT)
    assert warm.iterations < cold.iterations
    torch.testing.assert_close(
        warm.classifier.weight_CD, cold.classifier.weight_CD, rtol=1e-4, atol=1e-6
    )
    again = fit(problem, 1.0, start=cold.classifier, max_iterations=1000, tolerance=TIGHT)
    assert again.iterations == 0
    assert again.converged


def test_a_fit_cut_short_says_so(features_ND: torch.Tensor, labels_N: torch.Tensor) -> None:
    problem = Problem(features_ND, labels_N, C)
    short = _fit(problem, 1e-3, max_iterations=3)
    assert not short.converged
    assert short.iterations == 3
    assert short.gradient > TIGHT
    whole = _fit(problem, 1e-3)
    assert whole.loss < short.loss


def test_the_strongest_penalty_converges_with_classes_of_all_sizes() -> None:
    """Weights are then a thousand times stiffer than biases, and features nearly alike."""
    generator = torch.Generator().manual_seed(6)
    common_N1 = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    own_ND = torch.randn(300, 40, generator=generator, dtype=torch.float64)
    labels_N = torch.arange(300).sqrt().long() % 15
    found = _fit(Problem(common_N1 + 0.1 * own_ND, labels_N, 15), 1e5, tolerance=1e-6)
    assert found.converged
    assert found.iterations < 100


def test_a_class_without_images_is_never_predicted(
    features_ND: torch.Tensor, labels_N: torch.Tensor
) -> None:
    found = _fit(Problem(features_ND, labels_N, C + 1), 1.0, tolerance=1e-6)
    assert found.converged
    assert C not in found.classifier.scores(features_ND).argmax(1)
