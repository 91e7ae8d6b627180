"""Start the real command line, as a user would, and read what it left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_synclr.paths import PROJECT_DIR

SYNTHETIC = (
    "captions.backend=template",
    "images.backend=synthetic",
    "trainer.backbone_args={patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}",
    "trainer.contrastive={projector_hidden: 64, predictor_hidden: 64, out_dim: 32}",
    "trainer.mim={prototypes: 64, hidden: 64, bottleneck: 32}",
    "monitor.knn_folder=''",
    "monitor.log_every_steps=1",
    "monitor.samples_every_steps=5",
)
"""Overrides of configs/demo.yaml that make a run small: stand-in engines and a very small ViT."""


@dataclass(frozen=True)
class Finished:
    """A run that ended: exit code, output of all ranks, and its folder."""

    code: int
    output: str
    run_dir: Path

    @property
    def summary(self) -> dict[str, Any]:
        """What the run says it did."""
        loaded: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return loaded

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The logged steps, in order."""
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def environment() -> dict[str, str]:
    """This process's environment without what an outer launcher may have set."""
    scrubbed = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "MASTER_", "TORCHELASTIC_", "PYTEST_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(scrubbed)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_DIR)}


def torchrun_command(run_dir: Path, overrides: Sequence[str], launcher: Sequence[str]) -> list[str]:
    """The command line of one launcher of a run."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", *launcher),
        *("-m", "online_synclr", "--config", "configs/demo.yaml", f"run.dir={run_dir}"),
        *overrides,
    ]


def start_torchrun(
    run_dir: Path, overrides: Sequence[str], launcher: Sequence[str]
) -> "subprocess.Popen[str]":
    """Start one launcher; its ranks' whole output comes through its `stdout`."""
    return subprocess.Popen(
        torchrun_command(run_dir, overrides, launcher),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT_DIR,
        env=environment(),
    )


def standalone(num_ranks: int) -> tuple[str, str]:
    """Launcher arguments of a run on this machine alone, on a port of torchrun's choosing."""
    return ("--standalone", f"--nproc_per_node={num_ranks}")


def torchrun(
    run_dir: Path, *overrides: str, nproc: int = 2, timeout_s: float = 240, **env: str
) -> Finished:
    """Run to the end on this machine, on a port of torchrun's own choosing."""
    done = subprocess.run(
        torchrun_command(run_dir, overrides, standalone(nproc)),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=PROJECT_DIR,
        env={**environment(), **env},
        check=False,
    )
    return Finished(done.returncode, done.stdout + done.stderr, run_dir)


def assert_accounts_balance(summary: dict[str, Any]) -> None:
    """The identities every run must satisfy (docs/architecture.md, Summary)."""
    assert summary["groups_sent"] == (
        summary["groups_received"] + summary["groups_lost"] + summary["groups_discarded"]
    )
    assert summary["groups_received"] == (
        summary["groups_trained"] + summary["groups_evicted_unused"] + summary["groups_left"]
    )
