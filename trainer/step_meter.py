"""Losses and gradient norms of the steps since they were last read, summed on the device.

Nothing here makes a step wait for the device; `read` does, every `monitor.log_every_steps` and for
a checkpoint.
"""

import math
from dataclasses import dataclass

import torch

from trainer.objective.objective import LossParts

PARTS = ("total", "global", "local", "mim", "grad_norm")
"""What is looked at for being finite, in the order of a step's flags."""

FIELDS = (*PARTS, "same_concept_share", "repeated_share", "distillation")


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


def non_finite_flags(parts: LossParts, grad_norm: torch.Tensor) -> torch.Tensor:
    """This rank's flags of a step: (PARTS,) float on the device, 1.0 where one is not finite."""
    values = (parts.total, parts.global_, parts.local, parts.mim, grad_norm)
    return 1.0 - torch.isfinite(torch.stack([value.detach().float() for value in values])).float()


def is_bad(flags: torch.Tensor) -> torch.Tensor:
    """1.0 where total loss or gradient norm is not finite, so that the step is skipped; scalar."""
    return torch.maximum(flags[PARTS.index("total")], flags[PARTS.index("grad_norm")])


class StepMeter:
    """Accumulates device scalars; every rank sees the same flags, so all raise at the same step.

    `max_consecutive`: non-finite steps in a row after which no recovery is expected.
    """

    def __init__(self, device: torch.device, *, max_consecutive: int) -> None:
        self._max_consecutive = max_consecutive
        self._sums = torch.zeros(len(FIELDS), device=device)
        self._num_finite = torch.zeros((), device=device)
        self._non_finite = torch.zeros((), device=device)
        self._consecutive = torch.zeros((), device=device)
        self._consecutive_of = torch.zeros(len(PARTS), device=device)

    def add(self, parts: LossParts, grad_norm: torch.Tensor, flags: torch.Tensor) -> None:
        """Note one step. `flags`: `non_finite_flags`, the largest of all ranks."""
        bad = is_bad(flags)
        distillation = (
            parts.total.new_zeros(()) if parts.distillation is None else parts.distillation
        )
        values = torch.stack(
            [
                parts.total.detach().float(),
                parts.global_.detach().float(),
                parts.local.detach().float(),
                parts.mim.detach().float(),
                grad_norm.float(),
                parts.metrics["same_concept_share"].float(),
                parts.metrics["repeated_share"].float(),
                distillation.detach().float(),
            ]
        )
        self._sums += torch.where(bad > 0, torch.zeros_like(values), values)
        self._num_finite += 1 - bad
        self._non_finite += bad
        self._consecutive = (self._consecutive + 1) * bad
        self._consecutive_of = (self._consecutive_of + flags) * bad

    def read(self) -> MeterReading:
        """Wait for the device and return the window's means.

        Raises:
            DivergedLossError: the last `max_consecutive` steps or more were not finite. Said once:
                their count starts again, so that the run's figures can be read afterwards.
        """
        counts = torch.stack([self._num_finite, self._non_finite, self._consecutive])
        *sums, num_finite, non_finite, consecutive = torch.cat([self._sums, counts]).tolist()
        if consecutive >= self._max_consecutive:
            raise self._diverged(int(consecutive))
        means = {
            name: total / num_finite if num_finite else math.nan
            for name, total in zip(FIELDS, sums, strict=True)
        }
        return MeterReading(means, int(num_finite), int(non_finite))

    def _diverged(self, consecutive: int) -> DivergedLossError:
        counts = dict(zip(PARTS, self._consecutive_of.tolist(), strict=True))
        named = ", ".join(f"{name} in {count:.0f}" for name, count in counts.items() if count)
        self._consecutive.zero_()
        self._consecutive_of.zero_()
        return DivergedLossError(
            f"the last {consecutive} steps had a loss or gradient that is not finite ({named}; "
            "trainer.max_non_finite_steps); lower trainer.optimizer.peak_lr or set "
            "trainer.precision=fp32."
        )

    def start_window(self) -> None:
        """Forget the means, so that the next reading is of the steps from here on."""
        self._sums.zero_()
        self._num_finite.zero_()
