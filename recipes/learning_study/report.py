"""Figures -> docs/study.md, its plot and its JSON. Every number in them comes from the runs."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from recipes.learning_study.runs import ARMS, Outcome


def spread(values: Iterable[float]) -> str:
    """Mean and range, in per cent."""
    numbers = [100 * value for value in values]
    return f"{statistics.mean(numbers):.1f} ({min(numbers):.1f} - {max(numbers):.1f})"


def write_json(path: Path, outcomes: Sequence[Outcome], raw_pixels: float, chance: float) -> None:
    """All figures, for whoever wants to plot them otherwise."""
    data = {
        "raw_pixels": raw_pixels,
        "chance": chance,
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


def table(outcomes: Sequence[Outcome], raw_pixels: float, chance: float) -> str:
    """The Markdown table: one row for each thing compared."""
    rows = [
        "| backbone | kNN on the check set, %: mean (lowest - highest) |",
        "| --- | --- |",
        f"| largest label for every picture | {100 * chance:.1f} |",
        f"| raw pixels | {100 * raw_pixels:.1f} |",
        f"| random weights | {spread(outcome.knn_before for outcome in outcomes)} |",
    ]
    for arm, meaning in ARMS.items():
        values = [outcome.knn_after for outcome in outcomes if outcome.arm == arm]
        rows.append(f"| trained, {meaning} | {spread(values)} |")
    return "\n".join(rows)


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


def plot(path: Path, outcomes: Sequence[Outcome], raw_pixels: float) -> None:
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
    axes.axhline(100 * raw_pixels, color="grey", linestyle="--", label="raw pixels")
    axes.set(xlabel="optimiser steps", ylabel="kNN accuracy on the check set, %")
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
