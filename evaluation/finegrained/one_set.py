"""One data set from images to a result."""

import math
from dataclasses import asdict

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.feature_sharing import raised_by_all
from evaluation.finegrained.l2_path import Trial
from evaluation.finegrained.metrics import METRICS, Metric
from evaluation.finegrained.parts import Parts, extract_parts
from evaluation.finegrained.protocol import Outcome, judge
from evaluation.finegrained.settings import Settings
from evaluation.results import Result

TASK_NAME = "finegrained"


def judge_on(
    backbone: FrozenBackbone,
    data_name: str,
    *,
    shown: str | None = None,
    metric: Metric | None,
    settings: Settings,
    bench: Bench,
) -> Result:
    """The result on one data set. Every rank calls it.

    Args:
        data_name: as `load_data` takes it.
        shown: what the table calls it; none: the data set's own name.
        metric: none: top-1, or the 11-point mAP where images have several classes.

    Raises:
        EvaluationError: the data cannot be used, or not with this metric; on all ranks.
    """
    with raised_by_all(bench):
        data = load_data(data_name)
    name = shown or data.name
    parts = extract_parts(backbone, data, bench)
    metric = _fitting(metric, parts, name)
    title = f"{backbone.name} on {name}"
    outcome = judge(parts, metric=metric, settings=settings, bench=bench, title=title)
    if not math.isfinite(outcome.score):
        raise EvaluationError(
            f"{title}: the {metric.name} is {outcome.score}; its features are bad."
        )
    for line in remarks(outcome, settings):
        bench.say(f"{title}: {line}")
    return Result(
        backbone=backbone.name,
        task=TASK_NAME,
        data=name,
        metrics={metric.name: outcome.score},
        details=_details(parts, metric, outcome, settings),
    )


def _fitting(metric: Metric | None, parts: Parts, name: str) -> Metric:
    """The metric asked for, if the labels allow it."""
    if metric is None:
        return METRICS["map_11point" if parts.several_classes else "top1"]
    if metric.several_classes == parts.several_classes:
        return metric
    has = "several classes" if parts.several_classes else "one class"
    fitting = [
        other.name for other in METRICS.values() if other.several_classes != metric.several_classes
    ]
    raise EvaluationError(
        f"--metric {metric.name}: an image of {name} has {has}; choose {' or '.join(fitting)}."
    )


def remarks(outcome: Outcome, settings: Settings) -> list[str]:
    """What a person must know before believing the number."""
    found = []
    unfinished = [trial for trial in outcome.trials if not trial.converged]
    if unfinished:
        worst = max(trial.gradient for trial in unfinished)
        found.append(
            f"{len(unfinished)} of {len(outcome.trials)} fits did not converge (L2 "
            f"{_range(unfinished)}; largest gradient {worst:.1e}, asked {settings.tolerance:g}); "
            "raise --max-iterations to see whether it matters"
        )
    if not outcome.final.converged:
        found.append(
            f"the last fit, on train and val, did not converge in {outcome.final.iterations} steps "
            f"(gradient {outcome.final.gradient:.1e}, asked {settings.tolerance:g}); raise "
            "--max-iterations"
        )
    ends = {outcome.trials[0].l2: "strongest", outcome.trials[-1].l2: "weakest"}
    if outcome.chosen.l2 in ends:
        found.append(
            f"the best L2 value, {outcome.chosen.l2:.1e}, is the {ends[outcome.chosen.l2]} tried"
        )
    return found


def _range(trials: list[Trial]) -> str:
    values = [trial.l2 for trial in trials]
    return f"{min(values):.1e} to {max(values):.1e}"


def _details(
    parts: Parts, metric: Metric, outcome: Outcome, settings: Settings
) -> dict[str, object]:
    final = outcome.final
    return {
        "metric": metric.name,
        "num_images": parts.num_images,
        "num_classes": len(parts.train.class_names),
        "division": parts.note,
        "l2": outcome.chosen.l2,
        "val_score": outcome.chosen.score,
        "fit": {
            "iterations": final.iterations,
            "gradient": final.gradient,
            "converged": final.converged,
        },
        "trials": [asdict(trial) for trial in outcome.trials],
        "settings": asdict(settings),
    }
