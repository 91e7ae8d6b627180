"""The protocol on features: choose the penalty on val, fit on train and val, score on test.

After Kornblith et al., "Do Better ImageNet Models Transfer Better?" (arXiv 1805.08974), as the
authors of SynCLR carry it out in their public code (google-research/syn-rep-learn,
SynCLR/eval/main_downstream_linear.py): features are standardised, by the mean and deviation of the
images that are fitted.

Shapes: N images, D features, C classes.
"""

from dataclasses import dataclass

import torch

from evaluation.bench import Bench
from evaluation.features import FeatureTable
from evaluation.finegrained.fit import Fit, fit
from evaluation.finegrained.l2_path import Trial, best_trial, try_all
from evaluation.finegrained.metrics import Metric
from evaluation.finegrained.objective import Problem
from evaluation.finegrained.parts import Parts
from evaluation.finegrained.settings import Settings


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of features, float64 (D,); the deviation of a constant one is 1."""

    mean_D: torch.Tensor
    std_D: torch.Tensor

    @classmethod
    def of(cls, features_ND: torch.Tensor) -> "Scale":
        """Of these."""
        std_D, mean_D = torch.std_mean(features_ND.double(), dim=0, correction=0)
        # Rounding leaves a constant feature a deviation that would blow it up.
        is_constant_D = features_ND.amax(0) == features_ND.amin(0)
        return cls(mean_D, std_D.masked_fill(is_constant_D, 1.0))

    def apply(self, features_ND: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Standardised, float64 (N, D) on the device."""
        moved_ND = features_ND.to(device).double()
        return (moved_ND - self.mean_D.to(device)).div_(self.std_D.to(device))


@dataclass(frozen=True)
class Outcome:
    """score: on test. chosen: the trial with the penalty taken. final: the fit on train and val."""

    score: float
    chosen: Trial
    trials: list[Trial]
    final: Fit


def judge(parts: Parts, *, metric: Metric, settings: Settings, bench: Bench, title: str) -> Outcome:
    """The whole of it. Every rank calls it, and all have the same outcome.

    The last fit is done by every rank for itself: to wait for the first one's takes as long.
    """
    trials = _trials(parts, metric, settings, bench, title)
    chosen = best_trial(trials)
    both = parts.train_and_val
    scale = Scale.of(both.features_ND)
    final = fit(
        _problem(both, scale, bench.device),
        chosen.l2,
        max_iterations=settings.max_iterations,
        tolerance=settings.tolerance,
    )
    test_ND = scale.apply(parts.test.features_ND, bench.device)
    labels = parts.test.labels.to(bench.device)
    score = metric.score(final.classifier.scores(test_ND), labels)
    return Outcome(score=score, chosen=chosen, trials=trials, final=final)


def _trials(
    parts: Parts, metric: Metric, settings: Settings, bench: Bench, title: str
) -> list[Trial]:
    scale = Scale.of(parts.train.features_ND)
    return try_all(
        _problem(parts.train, scale, bench.device),
        scale.apply(parts.val.features_ND, bench.device),
        parts.val.labels.to(bench.device),
        metric=metric,
        settings=settings,
        bench=bench,
        title=title,
    )


def _problem(table: FeatureTable, scale: Scale, device: torch.device) -> Problem:
    return Problem(
        features_ND=scale.apply(table.features_ND, device),
        targets=table.labels.to(device),
        num_classes=len(table.class_names),
    )
