"""Losses and gradient norms of the steps since they were last read, summed on the device.

Nothing here makes a step wait for the device; `read` does, every `monitor.log_every_steps` and for
a checkpoint.
"""

import math
from dataclasses import dataclass

import torch

from trainer.objective.objective import LossParts

MAX_CONSECUTIVE = 50
"""Non-finite steps in a row after which training cannot be expected to recover."""

FIELDS = ("total", "global", "local", "mim", "grad_norm", "same_concept_share", "repeated_share")


class DivergedLossError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True, slots=True)
class MeterReading:
    """Means over the finite steps of a window (NaN when there were none), and counts.

    `non_finite_steps` counts since the meter was made, `num_steps` the finite ones of the window.
    """

    means: dict[str, float]
    num_steps: int
    non_finite_steps: int


class StepMeter:
    """Accumulates device scalars; every rank sees the same flags, so all raise at the same step."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(FIELDS), device=device)
        self._num_finite = torch.zeros((), device=device)
        self._non_finite = torch.zeros((), device=device)
        self._consecutive = torch.zeros((), device=device)

    def add(self, parts: LossParts, grad_norm: torch.Tensor, bad: torch.Tensor) -> None:
        """Note one step. `bad`: float scalar, 1.0 where any rank's loss or norm is not finite."""
        values = torch.stack(
            [
                parts.total.detach().float(),
                parts.global_.detach().float(),
                parts.local.detach().float(),
                parts.mim.detach().float(),
                grad_norm.float(),
                parts.metrics["same_concept_share"].float(),
                parts.metrics["repeated_share"].float(),
            ]
        )
        self._sums += torch.where(bad > 0, torch.zeros_like(values), values)
        self._num_finite += 1 - bad
        self._non_finite += bad
        self._consecutive = (self._consecutive + 1) * bad

    def read(self) -> MeterReading:
        """Wait for the device and return the window's means.

        Raises:
            DivergedLossError: the last `MAX_CONSECUTIVE` steps or more were not finite. Said once:
                their count starts again, so that the run's figures can be read afterwards.
        """
        counts = torch.stack([self._num_finite, self._non_finite, self._consecutive])
        *sums, num_finite, non_finite, consecutive = torch.cat([self._sums, counts]).tolist()
        if consecutive >= MAX_CONSECUTIVE:
            self._consecutive.zero_()
            raise DivergedLossError(
                f"the last {consecutive:.0f} steps had a loss or gradient that is not finite; "
                "lower trainer.optimizer.peak_lr or set trainer.precision=fp32."
            )
        means = {
            name: total / num_finite if num_finite else math.nan
            for name, total in zip(FIELDS, sums, strict=True)
        }
        return MeterReading(means, int(num_finite), int(non_finite))

    def start_window(self) -> None:
        """Forget the means, so that the next reading is of the steps from here on."""
        self._sums.zero_()
        self._num_finite.zero_()
