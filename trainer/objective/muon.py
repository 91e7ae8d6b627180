"""Muon for the matrices inside the network (Jordan et al., 2024; torch.optim.Muon).

The step of a matrix is its averaged gradient with all singular values made about equal. With the
scale of Moonlight (arXiv 2502.16982) a step is as large as AdamW's, so rates and decay carry over.
Students stay equal on all ranks only where matrices are multiplied alike: trainers of one kind.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

INSIDE = ("backbone.vit.blocks.", "projector.", "predictor.")
"""Where Muon is used; what reads pixels, masks or prototypes is left to AdamW."""


def orthogonalised(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter of the student: a matrix of the blocks or of their heads."""
    return parameter.dim() == 2 and name.startswith(INSIDE)


class GuardedMuon(torch.optim.Muon):
    """torch's Muon with the hook that fused AdamW has: where `found_inf` is set, nothing changes.

    Whether it is set is only known on the device, so every step works on with a copy of matrices
    and moments at hand and takes back what must not be.
    """

    found_inf: torch.Tensor | None = None

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        for parameter in self._matrices():
            # Made here and not in the first step, which may be one to take back.
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the matrices; float32 scalar `found_inf` above 0 on the device: leave them."""
        moments = [self.state[parameter]["momentum_buffer"] for parameter in self._matrices()]
        changing = [*self._matrices(), *moments]
        before = [tensor.clone() for tensor in changing]
        loss: float | None = super().step(closure)
        if self.found_inf is not None:
            for tensor, old in zip(changing, before, strict=True):
                tensor.copy_(torch.where(self.found_inf > 0, old, tensor))
        return loss

    def _matrices(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]
