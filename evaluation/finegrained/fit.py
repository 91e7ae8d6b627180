"""One logistic regression, fitted by L-BFGS on the device where its features are.

Shapes: N images, D features, C classes.
"""

from dataclasses import dataclass

import torch

from evaluation.finegrained.objective import Problem, loss_and_gradient

HISTORY = 10
"""Steps that L-BFGS remembers; scikit-learn's number."""
STALLED = 1e-20
"""Change of the summed loss that ends a fit: none. Steps near the optimum change it by very little
and the gradient by much, so torch's default of 1e-9 would end fits before the gradient is small."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """Linear, float64."""

    weight_CD: torch.Tensor
    bias_C: torch.Tensor

    def scores(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Logits, float64 (N, C)."""
        return torch.addmm(self.bias_C, features_ND, self.weight_CD.T)


@dataclass(frozen=True, eq=False)
class Fit:
    """A classifier, and how near to the optimum it is.

    gradient: largest entry of the gradient of the mean loss, by biases and by weights in `_unit`.
    evaluations: of loss and gradient.
    """

    classifier: Classifier
    l2: float
    loss: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool


def fit(
    problem: Problem,
    l2: float,
    *,
    start: Classifier | None = None,
    max_iterations: int,
    tolerance: float,
) -> Fit:
    """Minimise `loss_and_gradient` until `gradient <= tolerance`.

    In float64, whatever the device: the line search compares losses summed over all images, and in
    float32 their rounding ends it at gradients near 1e-4 where the loss is not small. The sum is
    handed to L-BFGS, and not the mean, as torch's forgets curvatures below an absolute 1e-10.

    Args:
        start: where to begin; none: with weights of zero and biases that give each class its share
            of the images, which is the optimum under an infinite penalty.
        max_iterations: of L-BFGS. What has not converged by then is still returned.
    """
    begin = start or _shares_only(problem)
    unit = _unit(problem, l2)
    scaled_CD = (begin.weight_CD / unit).requires_grad_()
    bias_C = begin.bias_C.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled_CD, bias_C],
        max_iter=max_iterations,
        # Line searches take a little over one evaluation a step; the iterations are the limit.
        max_eval=4 * max_iterations + 25,
        tolerance_grad=tolerance * problem.num_images,
        tolerance_change=STALLED,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> torch.Tensor:
        loss, by_weight_CD, bias_C.grad = loss_and_gradient(problem, scaled_CD * unit, bias_C, l2)
        scaled_CD.grad = by_weight_CD * unit
        return loss

    optimizer.step(closure)
    classifier = Classifier(scaled_CD.detach() * unit, bias_C.detach())
    return _judge(problem, classifier, l2, tolerance, optimizer)


def _unit(problem: Problem, l2: float) -> float:
    """The unit that weights are measured in: the penalty's curvature is at most 1 an image in it.

    Otherwise a strong penalty makes weights so much stiffer than biases that float64 cannot see the
    loss change any more while the gradient is still above the tolerance.
    """
    return (1 + l2 / problem.num_images) ** -0.5


def _shares_only(problem: Problem) -> Classifier:
    """Without weights. Each class counts as having one image more: a share of 0 has no logit."""
    features_ND, targets = problem.features_ND, problem.targets
    weight_CD = features_ND.new_zeros(problem.num_classes, features_ND.shape[1])
    if targets.ndim == 1:
        count_C = targets.bincount(minlength=problem.num_classes).double() + 1
        return Classifier(weight_CD, count_C.log())
    share_C = (targets.double().sum(0) + 1) / (problem.num_images + 2)
    return Classifier(weight_CD, share_C.logit())


def _judge(
    problem: Problem,
    classifier: Classifier,
    l2: float,
    tolerance: float,
    optimizer: torch.optim.LBFGS,
) -> Fit:
    """Convergence by the gradient where the optimiser stopped, not by what it says of itself."""
    unit = _unit(problem, l2)
    loss, by_weight_CD, by_bias_C = loss_and_gradient(
        problem, classifier.weight_CD, classifier.bias_C, l2
    )
    largest = torch.maximum(by_weight_CD.abs().max() * unit, by_bias_C.abs().max()).item()
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    return Fit(
        classifier=classifier,
        l2=l2,
        loss=loss.item() / problem.num_images,
        gradient=largest / problem.num_images,
        iterations=state["n_iter"],
        evaluations=state["func_evals"],
        # As the optimiser compares: rounding must not part the two.
        converged=largest <= tolerance * problem.num_images,
    )
