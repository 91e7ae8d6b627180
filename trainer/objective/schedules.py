"""What changes over a run, as pure functions of the step.

Steps count from 0 to `total` - 1; the last step has the end value or, for a cosine, is one step
away from it. A run with a high-resolution phase has two parts, each with all schedules from start
to end: those of the phase are the run's, compressed to its length, at a lower learning rate.
"""

import math
from dataclasses import dataclass

from online_synclr.config.schema import OptimizerConfig, TrainerConfig


@dataclass(frozen=True, slots=True)
class StepSettings:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    ema: float
    teacher_temperature: float


def step_settings(trainer: TrainerConfig, step: int) -> StepSettings:
    """All scheduled values of `step`."""
    optimizer, first_part = trainer.optimizer, trainer.first_part_steps
    total, ratio, shrink = first_part, 1.0, 1.0
    if trainer.in_high_resolution(step):
        step, total = step - first_part, trainer.high_resolution.steps
        ratio, shrink = trainer.high_resolution.peak_lr_ratio, total / first_part
    return StepSettings(
        lr=learning_rate(
            step,
            peak=ratio * peak_lr(optimizer, trainer.batch_groups),
            final=optimizer.final_lr,
            warmup=round(shrink * optimizer.warmup_steps),
            total=total,
        ),
        weight_decay=cosine(step, *optimizer.weight_decay, total=total),
        ema=cosine(step, *optimizer.ema, total=total),
        teacher_temperature=linear(
            step,
            *trainer.mim.teacher_temperature,
            total=round(shrink * trainer.mim.teacher_warmup_steps),
        ),
    )


def peak_lr(optimizer: OptimizerConfig, batch_groups: int) -> float:
    """Peak rate for a global batch: times (batch / reference) to the power of the rule.

    The power is 0 for `none`, 1 for `linear` and 1/2 for `sqrt`.
    """
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[optimizer.lr_scaling]
    return optimizer.peak_lr * (batch_groups / optimizer.lr_reference_groups) ** power


def learning_rate(step: int, *, peak: float, final: float, warmup: int, total: int) -> float:
    """Linear warm-up that reaches `peak` in step `warmup` - 1, then a cosine down to `final`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, peak, final, total=total - warmup)


def cosine(step: int, start: float, end: float, *, total: int) -> float:
    """Half a cosine from `start` to `end` over `total` steps, `end` afterwards."""
    share = min(1.0, step / total) if total > 0 else 1.0
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


def linear(step: int, start: float, end: float, *, total: int) -> float:
    """A straight line from `start` to `end` over `total` steps, `end` afterwards."""
    share = min(1.0, step / total) if total > 0 else 1.0
    return start + (end - start) * share
