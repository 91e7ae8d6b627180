"""One run a seed and arm, through the real command line; its outcome read back from its folder."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).with_name("study.yaml")

ARMS = {
    "captions": "images of one caption are positives",
    "shuffled": "positives exchanged between groups",
}
"""The recipe, and the control that sees the same pictures under labels that mean nothing."""


@dataclass(frozen=True)
class Outcome:
    """What one run showed on the check set. `curve`: (step, kNN accuracy) in step order."""

    arm: str
    seed: int
    steps: int
    wall_s: float
    knn_before: float
    knn_after: float
    distinct_captions: int
    images_rendered: int
    commit: str
    curve: list[tuple[int, float]]


def run_arm(arm: str, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Run unless the folder already holds a finished run; the output goes to a log beside it.

    Raises:
        subprocess.CalledProcessError: the run failed; its log says why.
    """
    run_dir = folder / f"{arm}-{seed}"
    if not (run_dir / "summary.json").exists():
        _launch(run_dir, seed, arm == "shuffled", overrides)
    return read_outcome(run_dir, arm, seed)


def _launch(run_dir: Path, seed: int, shuffled: bool, overrides: Sequence[str]) -> None:
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    run_dir.with_suffix(".commit").write_text(_commit() + "\n")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "online_synclr", "--config", str(CONFIG), f"run.dir={run_dir}"),
        *(f"run.seed={seed}", f"trainer.shuffle_positives={str(shuffled).lower()}"),
        *overrides,
    ]
    with run_dir.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def read_outcome(run_dir: Path, arm: str, seed: int) -> Outcome:
    """Read a finished run's summary and metrics."""
    summary = json.loads((run_dir / "summary.json").read_text())
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return Outcome(
        arm=arm,
        seed=seed,
        steps=summary["steps"],
        wall_s=summary["wall_s"],
        knn_before=summary["knn_before"],
        knn_after=summary["knn_after"],
        distinct_captions=summary["distinct_captions"],
        images_rendered=summary["images_rendered"],
        commit=run_dir.with_suffix(".commit").read_text().strip(),
        curve=[(row["step"], row["knn/accuracy"]) for row in rows if "knn/accuracy" in row],
    )
