"""SYNTHETIC TRAINER, for benchmarks only: a run whose step computes nothing and takes a known time.

    PACED_STEP_S=0.2 torchrun --nproc_per_node=2 -m benchmarks.paced_trainer --config FILE key=value

The command line, its settings and all else are those of a real run: vote, intake, batch, ledger,
figures, checkpoints. In place of views, networks, losses and optimiser there is a wait of
PACED_STEP_S seconds, and every loss is zero. Trainer 0 writes down what CPU its loop has used.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

import torch

import trainer.assembly
from online_synclr.__main__ import main as run
from online_synclr.config import Config
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.objective.objective import LossParts
from trainer.objective.schedules import StepSettings, step_settings
from trainer.role import TrainerRole
from trainer.step import TrainStep
from trainer.step_meter import non_finite_flags

STEP_S: Final = "PACED_STEP_S"
"""Environment variable: seconds from a step's call to its return."""

CPU_FILE: Final = "paced_cpu_s.json"
"""In the run folder: CPU seconds of trainer 0's main thread at the start of each step."""

_build_real_step = trainer.assembly.build_step


class PacedStep(TrainStep):
    """Takes `step_s` seconds and learns nothing. The model is there for checkpoints alone."""

    step_s: float
    cpu_s: list[float]

    def __call__(self, batch: Batch, step: int) -> StepSettings:
        """Wait; see `TrainStep`."""
        until_s = time.monotonic() + self.step_s
        self.cpu_s.append(time.thread_time())
        if self._trainers.is_first and step + 1 == self._config.trainer.steps:
            (self._config.run.dir / CPU_FILE).write_text(json.dumps(self.cpu_s))
        zero = torch.zeros(())
        shares = {"same_concept_share": zero, "repeated_share": zero}
        parts = LossParts(total=zero, global_=zero, local=zero, mim=zero, metrics=shares)
        self.meter.add(parts, zero, non_finite_flags(parts, zero))
        settings = step_settings(self._config.trainer, step)
        time.sleep(max(0.0, until_s - time.monotonic()))
        return settings


def build_paced_step(config: Config, role: TrainerRole, trainers: Trainers) -> TrainStep:
    """In place of `trainer.assembly.build_step`; CPU only."""
    step = _build_real_step(config, role, trainers)
    step.__class__ = PacedStep
    assert isinstance(step, PacedStep)
    step.step_s, step.cpu_s = float(os.environ[STEP_S]), []
    return step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; returns its exit code."""
    print(f"SYNTHETIC TRAINER: each step is a wait of {os.environ[STEP_S]} s", file=sys.stderr)
    trainer.assembly.build_step = build_paced_step
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
