"""Figures of the picture study -> docs/picture-study.md and .json; every number from the runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
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


def _things(runs: list[dict], place: int) -> list[float]:
    """kNN accuracy among things, in per cent, before (0) or after (-1) every run."""
    return [100 * run["things"][place] for run in runs]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def table(runs: dict[str, list[dict]]) -> str:
    """One row an arm; mean and range over the seeds."""
    columns = (
        "pictures", "images", "reuse", "steps", "check set: kNN, %",
        "gain over random weights, points", "things in real compositions: kNN, %",
    )  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for arm, of_arm in runs.items():
        after, before = _ends(of_arm, -1), _ends(of_arm, 0)
        gains = [a - b for a, b in zip(after, before, strict=True)]
        one = of_arm[0]
        rows.append(
            f"| {MEANING[arm]} | {one['images']} | {one['reuse']} | {one['steps']} | "
            f"{_spread(after)} | {_spread(gains)} | {_spread(_things(of_arm, -1))} |"
        )
    any_arm = next(iter(runs.values()))
    rows.append(
        f"| none: random weights | 0 | 0 | 0 | {_spread(_ends(any_arm, 0))} | 0 | "
        f"{_spread(_things(any_arm, 0))} |"
    )
    raw = any_arm[0]["raw_pixels"]
    rows.append(
        f"| none: raw pixels at 16 x 16 | 0 | 0 | 0 | {100 * raw['check set']:.1f} | | "
        f"{100 * raw['things']:.1f} |"
    )
    return "\n".join(rows)


def recovered(runs: dict[str, list[dict]]) -> str:
    """The share of the ceiling's gain that rendered pictures give, in both measures."""
    if "real" not in runs:
        return "The ceiling was not run."
    return "\n".join(
        [
            f"- Check set: {_shares(runs, _ends)}",
            f"- Things in real compositions: {_shares(runs, _things)}",
        ]
    )


def _shares(
    runs: dict[str, list[dict]], measure: Callable[[list[dict], int], Sequence[float]]
) -> str:
    def gain(arm: str) -> float:
        return statistics.mean(measure(runs[arm], -1)) - statistics.mean(measure(runs[arm], 0))

    ceiling = gain("real")
    if ceiling <= 0:
        return "the ceiling gains nothing over random weights, so no share of it can be named."
    return (
        f"of the ceiling's mean gain over random weights, {ceiling:.1f} points, "
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
