"""One real run of a split, and what it did once its pool had filled."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_synclr.monitor import metrics
from online_synclr.monitor.jsonl import read_jsonl
from online_synclr.paths import PROJECT_DIR
from online_synclr.topology import Split

SKIPPED = 1 / 3
"""Share of a run's time that is left out: its first steps live on what the pool held."""


@dataclass(frozen=True)
class Achieved:
    """Of a run's later part. Waits are shares of time, means over the ranks of a side."""

    steps_per_s: float
    trainer_wait: float
    generator_wait: float
    reuse_in_force: float


def run_split(split: Split, folder: Path, settings: Sequence[str]) -> Achieved:
    """Run configs/demo.yaml under torchrun with these settings, to its end.

    Raises:
        RuntimeError: the run failed; with the end of its output.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        f"--nproc_per_node={split.trainers + split.generators}",
        *("-m", "online_synclr", "--config", "configs/demo.yaml", f"run.dir={folder}"),
        *settings,
        f"topology.generators={split.generators}",
        f"topology.trainers={split.trainers}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_DIR)}
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the run failed: {(done.stdout + done.stderr)[-2000:]}")
    return achieved(list(read_jsonl(folder / "metrics.jsonl")))


def achieved(rows: Sequence[Mapping[str, Any]]) -> Achieved:
    """What the logged steps say of the time after the first `SKIPPED` of it."""
    rows = [row for row in rows if metrics.LOSS_TOTAL in row]
    first, last = rows[0], rows[-1]
    whole_s = last["time_s"] - first["time_s"]
    begin = next(row for row in rows if row["time_s"] - first["time_s"] >= SKIPPED * whole_s)
    elapsed_s = last["time_s"] - begin["time_s"]

    def share(*names: str) -> float:
        # Waits are shares of the time since the first step, which ended with the first row.
        def seconds(row: Mapping[str, Any]) -> float:
            since_s: float = row["time_s"] - first["time_s"]
            return since_s * sum(float(row[name]) for name in names)

        return max(0.0, (seconds(last) - seconds(begin)) / elapsed_s)

    return Achieved(
        steps_per_s=(last["step"] - begin["step"]) / elapsed_s,
        trainer_wait=share(metrics.WAIT_GROUPS, metrics.WAIT_VOTE),
        generator_wait=share(metrics.WAIT_CREDITS),
        reuse_in_force=last[metrics.POOL_REUSE],
    )
