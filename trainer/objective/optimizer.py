"""AdamW with weight decay where it belongs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from online_synclr.config.schema import OptimizerConfig
from trainer.objective.schedules import StepSettings

UNDECAYED_NAMES = ("pos_embed", "cls_token", "reg_token", "mask_token", "gain")
"""Parameters that are positions, tokens or weight-norm gains, whatever their shape."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels only.

    Biases, norms and other one-dimensional parameters, position embeddings, the class, register
    and mask tokens and the gains of the weight-normalised prototypes are left alone.
    """
    return parameter.dim() > 1 and name.rsplit(".", 1)[-1] not in UNDECAYED_NAMES


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Two groups, with `decay` true and false; parameters without gradient are left out."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    return [
        {"params": [p for name, p in trained if decays(name, p) is decay], "decay": decay}
        for decay in (True, False)
    ]


def build_optimizer(student: nn.Module, settings: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the student's parameters; `apply_settings` sets rate and decay each step.

    The fused implementation does one kernel over many parameters on GPUs and has a CPU version as
    well; it needs all parameters to be floating point on one device, which they are.
    """
    return torch.optim.AdamW(
        parameter_groups(student.named_parameters()),
        lr=settings.peak_lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay[0],
        fused=True,
    )


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Set the learning rate and, for the group that decays, the weight decay of a step."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr
        group["weight_decay"] = settings.weight_decay if group["decay"] else 0.0
