"""The loop of the supervised phase.

    batch -> step -> figures -> validation -> checkpoint -> batch -> ...

It waits for the processes that read pictures, and for the other ranks in the exchange of gradients
and in the short one on the CPU before each step, in which all learn whether one was told to stop.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.run_folder import RunFolder
from trainer.distributed import Trainers
from trainer.supervised import saving
from trainer.supervised.folder import LabelledFolder
from trainer.supervised.loading import Share, train_batches
from trainer.supervised.log import PhaseLog
from trainer.supervised.step import StepReading, SupervisedStep
from trainer.supervised.validation import accuracies


class NotFiniteError(RuntimeError):
    """No step since the last figures was finite; the phase ends, its checkpoints stay."""


@dataclass(frozen=True, kw_only=True)
class PhaseParts:
    """What the loop works with. `log`: the first rank's; None elsewhere. `source`: the state of
    the run's checkpoint; `began`: what the phase began with.
    """

    config: Config
    trainers: Trainers
    images: LabelledFolder
    share: Share
    train: SupervisedStep
    began: dict[str, Any]
    source: dict[str, Any]
    log: PhaseLog | None
    stop_requested: Callable[[], bool]


class SupervisedPhase:
    """Runs steps until the last one, or until a rank is told to stop."""

    def __init__(self, parts: PhaseParts, *, start_step: int) -> None:
        self._parts = parts
        self._settings = parts.config.trainer.supervised
        self._checkpoints = RunFolder(parts.config.run.dir).checkpoints
        self._saved_step = self._logged_step = self.step = start_step
        self._since_s = time.monotonic()
        self.figures: dict[str, float] = {}
        """The latest of each kind."""

    def run(self) -> bool:
        """Train; whether all steps are done. Saves at the end in any case.

        Raises:
            PictureError: a picture cannot be read.
            NotFiniteError: the loss diverged (on every rank).
            OSError: the first rank could not write a checkpoint.
        """
        parts, last = self._parts, self._settings.steps
        batches = train_batches(
            parts.images.train, parts.share, first_step=self.step, last_step=last
        )
        while self.step < last and not self._stop():
            rate = parts.train(next(batches), self.step)
            self.step += 1
            self._after_step(rate)
        self._save()
        return self.step >= last

    def validate(self) -> None:
        """Accuracy of student and average on val/, if there is one. Waits for all ranks."""
        parts = self._parts
        if parts.images.val is None:
            return
        train = parts.train
        student, ema = accuracies(
            (train.student, train.ema), parts.images.val, parts.share, parts.config, parts.trainers
        )
        self._tell(
            {metrics.SUPERVISED_VAL_ACCURACY: student, metrics.SUPERVISED_VAL_ACCURACY_EMA: ema}
        )

    def _after_step(self, rate: float) -> None:
        monitor, every = self._parts.config.monitor, self._parts.config.trainer.checkpoint
        is_last = self.step == self._settings.steps
        if self.step % monitor.log_every_steps == 0 or is_last:
            self._figures(rate)
        if is_last or _due(self.step, self._settings.val_every_steps):
            self.validate()
        if _due(self.step, every.every_steps):
            self._save()

    def _figures(self, rate: float) -> None:
        reading: StepReading = self._parts.train.read()
        now_s = time.monotonic()
        if math.isnan(reading.loss):
            raise NotFiniteError(
                f"no step since {self._logged_step} had finite gradients; lower "
                "trainer.supervised.peak_lr or set trainer.precision=fp32."
            )
        self._tell(
            {
                metrics.SUPERVISED_LOSS: reading.loss,
                metrics.SUPERVISED_ACCURACY: reading.accuracy,
                metrics.SUPERVISED_IMAGES: reading.num_images / max(1e-9, now_s - self._since_s),
                metrics.OPTIM_LR: rate,
            }
        )
        self._logged_step, self._since_s = self.step, now_s

    def _tell(self, values: dict[str, float]) -> None:
        self.figures.update(values)
        if self._parts.log is not None:
            self._parts.log.write(self.step, values)

    def _save(self) -> None:
        if self.step == self._saved_step:
            return
        self._saved_step = self.step
        parts = self._parts
        if parts.trainers.is_first:
            saving.save(
                self._checkpoints,
                config=parts.config,
                step=self.step,
                train=parts.train,
                began=parts.began,
                source=parts.source,
            )

    def _stop(self) -> bool:
        """Whether any rank was told to; all ranks know the same."""
        told = torch.tensor([float(self._parts.stop_requested())])
        if self._parts.trainers.cpu_group is not None:
            dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._parts.trainers.cpu_group)
        return bool(told.item())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def say(text: str) -> None:
    """To people; they may be gone."""
    print(f"online_synclr: finetune: {text}", file=sys.stderr, flush=True)
