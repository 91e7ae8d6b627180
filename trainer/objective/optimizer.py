"""The student's optimiser: AdamW with weight decay where it belongs, and Muon if asked for."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from online_synclr.config.schema import OptimizerConfig
from trainer.objective.muon import GuardedMuon, orthogonalised
from trainer.objective.schedules import StepSettings
from trainer.objective.shards import part_of

UNDECAYED_NAMES = ("pos_embed", "cls_token", "reg_token", "mask_token", "gain")
"""Parameters that are positions, tokens or weight-norm gains, whatever their shape."""


class StudentOptimizer:
    """One or two of torch's optimisers by name, used as one."""

    def __init__(self, parts: dict[str, torch.optim.Optimizer]) -> None:
        self._parts = parts

    @property
    def names(self) -> tuple[str, ...]:
        """`adamw`, or `adamw` and `muon`."""
        return tuple(self._parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, to be changed in place."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def step(self, bad: torch.Tensor | None = None) -> None:
        """Update the parameters, unless `bad`, a float32 scalar on the device, is above 0.

        The host does not learn which: `found_inf` is the hook of torch's GradScaler, at which the
        fused kernels leave parameters, moments and step counts as they are.
        """
        for part in self._parts.values():
            part.found_inf = bad  # type: ignore[attr-defined]
            part.grad_scale = None  # type: ignore[attr-defined]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Each part's state under its name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def without_moments(
        self, state: dict[str, Any], parameters: Collection[nn.Parameter]
    ) -> dict[str, Any]:
        """A saved state that has forgotten moments and step counts of some parameters.

        Loaded, they start as those of new parameters do.
        """
        forgotten = {id(parameter) for parameter in parameters}
        kept = {}
        for name, part in self._parts.items():
            every = [p for group in part.param_groups for p in group["params"]]
            moments = {
                index: values
                for index, values in state[name]["state"].items()
                if id(every[index]) not in forgotten
            }
            kept[name] = {**state[name], "state": moments}
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of an optimiser with the same parts, its moments whole."""
        for name, part in self._parts.items():
            parameters = [p for group in part.param_groups for p in group["params"]]
            part.load_state_dict(_cut(state[name], parameters))


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


def _cut(state: dict[str, Any], parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    """A saved state with each moment cut as its parameter is; step counts are scalars."""
    cut = {
        index: {
            name: part_of(value, parameters[index]) if value.dim() else value
            for name, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    return {**state, "state": cut}


def build_optimizer(student: nn.Module, settings: OptimizerConfig) -> StudentOptimizer:
    """AdamW over the student's parameters, or over those that Muon does not take.

    `apply_settings` sets rates and decay each step. The fused AdamW does one kernel over many
    parameters on GPUs and has a CPU version as well; it needs all parameters to be floating point
    on one device, which they are.
    """
    with_muon = settings.name == "muon"
    left, taken = [], []
    for name, parameter in student.named_parameters():
        if with_muon and parameter.requires_grad and orthogonalised(name, parameter):
            taken.append(parameter)
        else:
            left.append((name, parameter))
    rate, decay = settings.peak_lr, settings.weight_decay[0]
    parts: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(
            parameter_groups(left), lr=rate, betas=settings.betas, weight_decay=decay, fused=True
        )
    }
    for group in parts["adamw"].param_groups:
        group["rate"] = 1.0
    if taken:
        parts["muon"] = muon = GuardedMuon(taken, lr=rate, weight_decay=decay)
        muon.param_groups[0].update(decay=True, rate=settings.muon_lr_ratio)
    return StudentOptimizer(parts)


def apply_settings(optimizer: StudentOptimizer, settings: StepSettings) -> None:
    """Set every group's learning rate and, where it decays, the weight decay of a step."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * group["rate"]
        group["weight_decay"] = settings.weight_decay if group["decay"] else 0.0
