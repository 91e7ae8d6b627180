"""Figures -> docs/study.md, its plot and its JSON. Every number in them comes from the runs."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.learning_study.runs import ARMS, Outcome


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """kNN accuracies, as shares, of what no run trains. `judge`: None if it was not at hand."""

    num_images: int
    largest_label: float
    raw_pixels: float
    judge: float | None

    def standard_error(self, accuracy: float) -> float:
        """Of an accuracy on the check set, for the choice of its pictures alone."""
        return math.sqrt(accuracy * (1 - accuracy) / self.num_images)


def spread(values: Iterable[float]) -> str:
    """Mean and range, in per cent."""
    numbers = [100 * value for value in values]
    return f"{statistics.mean(numbers):.1f} ({min(numbers):.1f} - {max(numbers):.1f})"


def write_json(path: Path, outcomes: Sequence[Outcome], baselines: Baselines) -> None:
    """All figures, for whoever wants to plot them otherwise."""
    data = {
        "baselines": asdict(baselines),
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


def table(outcomes: Sequence[Outcome], baselines: Baselines) -> str:
    """The Markdown table: one row for each thing compared."""
    rows = [
        "| backbone | kNN on the check set, %: mean (lowest - highest) |",
        "| --- | --- |",
        f"| largest label for every picture | {100 * baselines.largest_label:.1f} |",
        f"| raw pixels at 16 x 16 | {100 * baselines.raw_pixels:.1f} |",
        f"| random weights | {spread(outcome.knn_before for outcome in outcomes)} |",
    ]
    for arm, meaning in ARMS.items():
        values = [outcome.knn_after for outcome in outcomes if outcome.arm == arm]
        rows.append(f"| trained, {meaning} | {spread(values)} |")
    if baselines.judge is not None:
        rows.append(
            "| a classifier of the image model's concepts, trained with labels on real pictures of "
            f"them | {100 * baselines.judge:.1f} |"
        )
    return "\n".join(rows)


def reading(outcomes: Sequence[Outcome], baselines: Baselines) -> str:
    """How far trained backbones are from the same backbones before, and from the control's."""
    gains = {arm: [o.knn_after - o.knn_before for o in outcomes if o.arm == arm] for arm in ARMS}
    by_seed = {arm: {o.seed: o.knn_after for o in outcomes if o.arm == arm} for arm in ARMS}
    apart = [by_seed["captions"][seed] - by_seed["shuffled"][seed] for seed in by_seed["captions"]]
    error = 100 * baselines.standard_error(baselines.raw_pixels)
    return (
        f"In points, mean (lowest - highest) over the seeds: training moved the backbone by "
        f"{spread(gains['captions'])}, the control's by {spread(gains['shuffled'])}; the two end "
        f"{spread(apart)} apart. The standard error of one figure near "
        f"{100 * baselines.raw_pixels:.0f} % is {error:.1f} points, for the choice of the "
        f"{baselines.num_images} pictures alone."
    )


def details(outcomes: Sequence[Outcome]) -> str:
    """One row for each run."""
    rows = [
        "| arm | seed | steps | captions | images | minutes | kNN before, % | kNN after, % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {outcome.arm} | {outcome.seed} | {outcome.steps} | {outcome.distinct_captions} | "
        f"{outcome.images_rendered} | {outcome.wall_s / 60:.1f} | "
        f"{100 * outcome.knn_before:.1f} | {100 * outcome.knn_after:.1f} |"
        for outcome in outcomes
    ]
    return "\n".join(rows)


def plot(path: Path, outcomes: Sequence[Outcome], baselines: Baselines) -> None:
    """kNN accuracy over steps, one line a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    colours = {"captions": "tab:blue", "shuffled": "tab:red"}
    labelled: set[str] = set()
    for outcome in outcomes:
        steps = [0, *(step for step, _ in outcome.curve)]
        values = [100 * outcome.knn_before, *(100 * value for _, value in outcome.curve)]
        label = None if outcome.arm in labelled else ARMS[outcome.arm]
        labelled.add(outcome.arm)
        axes.plot(steps, values, color=colours[outcome.arm], label=label, alpha=0.8)
    axes.axhline(100 * baselines.raw_pixels, color="grey", linestyle="--", label="raw pixels")
    axes.set(xlabel="optimiser steps", ylabel="kNN accuracy on the check set, %")
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
