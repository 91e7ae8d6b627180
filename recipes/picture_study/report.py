"""Figures of the picture study -> docs/picture-study.md and .json; every number from the runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

MEANING = {
    "first": "first version of the image model",
    "this": "this version",
    "real": "real compositions (the ceiling)",
}


def write(folder: Path, seeds: Sequence[int], arms: Sequence[str], docs: Path) -> None:
    """Read `<arm>-<seed>.json` of a run folder; write the report."""
    runs = {
        arm: [json.loads((folder / f"{arm}-{seed}.json").read_text()) for seed in seeds]
        for arm in arms
    }
    sizes = {(run["steps"], run["groups"]) for of_arm in runs.values() for run in of_arm}
    if len(sizes) > 1:
        raise ValueError(f"runs of different steps and groups cannot be compared: {sizes}")
    (docs / "picture-study.json").write_text(json.dumps(runs, indent=1) + "\n")
    head = Path(__file__).with_name("head.md").read_text().rstrip()
    notes = Path(__file__).with_name("notes.md").read_text().rstrip()
    parts = [head, table(runs), recovered(runs), curves(runs), notes]
    (docs / "picture-study.md").write_text("\n\n".join(parts) + "\n")


def _ends(runs: list[dict], place: int) -> list[float]:
    """kNN accuracy in per cent at the start (0) or the end (-1) of every run."""
    return [100 * run["curve"][place][1] for run in runs]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def table(runs: dict[str, list[dict]]) -> str:
    """One row an arm; mean and range over the seeds."""
    rows = ["| pictures | images | reuse | steps | kNN, % | gain over random weights, points |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    for arm, of_arm in runs.items():
        after, before = _ends(of_arm, -1), _ends(of_arm, 0)
        gains = [a - b for a, b in zip(after, before, strict=True)]
        one = of_arm[0]
        rows.append(
            f"| {MEANING[arm]} | {one['images']} | {one['reuse']} | {one['steps']} | "
            f"{_spread(after)} | {_spread(gains)} |"
        )
    floor = _ends(next(iter(runs.values())), 0)
    rows.append(f"| none: random weights | 0 | 0 | 0 | {_spread(floor)} | 0 |")
    return "\n".join(rows)


def recovered(runs: dict[str, list[dict]]) -> str:
    """The share of the ceiling's gain that rendered pictures give."""
    if "real" not in runs:
        return "The ceiling was not run."

    def gain(arm: str) -> float:
        return statistics.mean(_ends(runs[arm], -1)) - statistics.mean(_ends(runs[arm], 0))

    ceiling = gain("real")
    if ceiling <= 0:
        return "The ceiling gains nothing over random weights, so no share of it can be named."
    return (
        f"Of the ceiling's mean gain over random weights, {ceiling:.1f} points: "
        + ", ".join(f"{MEANING[arm]} {gain(arm) / ceiling:.2f}" for arm in runs if arm != "real")
        + "."
    )


def curves(runs: dict[str, list[dict]]) -> str:
    """kNN over steps, one row a run."""
    steps = [step for step, _ in next(iter(runs.values()))[0]["curve"]]
    rows = ["| run | " + " | ".join(map(str, steps)) + " |", "| --- " * (len(steps) + 1) + "|"]
    for arm, of_arm in runs.items():
        for index, run in enumerate(of_arm):
            values = " | ".join(f"{100 * value:.1f}" for _, value in run["curve"])
            rows.append(f"| {arm} {index} | {values} |")
    return "kNN in per cent after so many steps:\n\n" + "\n".join(rows)
