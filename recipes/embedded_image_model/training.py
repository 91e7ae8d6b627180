"""What every training loop of the recipe shares: averages, schedules, checkpoints, progress."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch
from torch import nn


class Ema:
    """Exponential moving average of a module's parameters, warmed up over the first steps."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._count = 0
        self.shadow = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module."""
        self._count += 1
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in module.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for parameter, average in zip(module.parameters(), self.shadow, strict=True):
            parameter.copy_(average)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"shadow": self.shadow, "count": self._count}

    def load(self, state: dict) -> None:
        """Take up a checkpoint's state."""
        self.shadow, self._count = state["shadow"], state["count"]


def cosine_rate(step: int, steps: int, peak: float, *, warm: int, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up to `peak`, then a half cosine down to `floor` x peak."""
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def late_decay_rate(step: int, steps: int, peak: float, *, warm: int, tail: float) -> float:
    """Learning rate: linear warm-up to `peak`, constant, over the last `tail` of steps down to 0.

    A checkpoint from before the descent can be trained on for longer, whatever `steps` was.
    """
    start = round((1 - tail) * steps)
    if step < warm:
        return peak * (step + 1) / warm
    return peak if step < start else peak * (steps - step) / (steps - start)


def save_state(
    path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer, step: int
) -> None:
    """Write a checkpoint in one move, so that a stop in the middle leaves the older one."""
    state = {
        "module": module.state_dict(),
        "ema": ema.state(),
        "optimiser": optimiser.state_dict(),
        "step": step,
    }
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    os.replace(fresh, path)


def load_state(
    path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer | None
) -> int:
    """Take up a checkpoint if there is one; the step to go on from."""
    if not path.exists():
        return 0
    state = torch.load(path)
    module.load_state_dict(state["module"])
    ema.load(state["ema"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def steps_done(path: Path) -> int:
    """How far a checkpoint is; 0 if there is none."""
    return int(torch.load(path)["step"]) if path.exists() else 0


class Clock:
    """Prints progress with speed and time left, about every ten seconds."""

    def __init__(self, name: str, steps: int, start: int, *, every_s: float = 10.0) -> None:
        self._name, self._steps, self._first = name, steps, start
        self._every_s = every_s
        self._begin = self._last = time.monotonic()

    def tick(self, step: int, text: str) -> None:
        """Report step `step` (from 0) if the last report is old enough or it is the last step."""
        now = time.monotonic()
        if now - self._last < self._every_s and step + 1 < self._steps:
            return
        self._last = now
        speed = (step + 1 - self._first) / max(1e-6, now - self._begin)
        left_s = max(0, self._steps - step - 1) / speed
        print(
            f"{self._name} {step + 1}/{self._steps} {text} "
            f"({speed:.2f} steps/s, {left_s / 60:.1f} min left)",
            flush=True,
        )
