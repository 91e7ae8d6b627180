"""Training of all heads at once: one pass of the frozen backbone feeds them all.

    crops --> tokens, no gradient --> norm --> each head: logits --> upsampled, cross-entropy
                                                          gradients summed over ranks --> step

A step on any number of ranks is that of one rank with the whole batch, to rounding: statistics
are of the whole batch, and the loss is divided by the number of its pixels.

Shapes: M crops of P x P pixels, h x w patches, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, interpolate

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.segmentation.classes import IGNORED
from evaluation.segmentation.heads import LinearHeads, TokenNorm
from evaluation.segmentation.tokens import patch_tokens

LOSS_CROPS = 4
"""Crops whose logits are upsampled at once: at 512 pixels and 150 classes 0.6 GB."""
SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How the heads are trained. learning_rates: one a head, at its peak."""

    learning_rates: tuple[float, ...]
    optimizer: str
    weight_decay: float
    steps: int
    warmup_steps: int
    batch_crops: int


class HeadTraining:
    """The heads, their norm and optimiser, and the step they are at."""

    def __init__(
        self, recipe: Recipe, num_features: int, num_classes: int, device: torch.device, seed: int
    ) -> None:
        self.recipe = recipe
        self.norm = TokenNorm(num_features).to(device)
        self.heads = LinearHeads(len(recipe.learning_rates), num_features, num_classes, seed).to(
            device
        )
        groups: list[dict[str, Any]] = [
            {"params": self.heads.parameters_of(head), "lr": rate, "peak_lr": rate}
            for head, rate in enumerate(recipe.learning_rates)
        ]
        if recipe.optimizer == "adamw":
            self._optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                groups, weight_decay=recipe.weight_decay
            )
        else:
            self._optimizer = torch.optim.SGD(
                groups, momentum=SGD_MOMENTUM, weight_decay=recipe.weight_decay
            )
        self.step = 0

    def train_step(
        self,
        images_M3PP: torch.Tensor,
        labels_MPP: torch.Tensor,
        backbone: FrozenBackbone,
        bench: Bench,
    ) -> None:
        """One step of every head on this rank's part of the batch. Waits for the other ranks."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self._lr_share()
        tokens_MhwD = patch_tokens(backbone, images_M3PP, bench)
        normed = self.norm.update(tokens_MhwD.flatten(0, 2), bench.group).view_as(tokens_MhwD)
        labels_MPP = labels_MPP.to(bench.device).long()
        num_pixels = (labels_MPP != IGNORED).sum()
        if bench.group is not None:
            dist.all_reduce(num_pixels, group=bench.group)
        self._optimizer.zero_grad()
        for head in range(len(self.heads)):
            for tokens, labels in _parts(normed, labels_MPP):
                logits = self.heads.logits(head, tokens)
                logits = interpolate(logits, labels.shape[-2:], mode="bilinear")
                loss = cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
                (loss / num_pixels.clamp_min(1)).backward()
        self._sum_gradients(bench)
        self._optimizer.step()
        self.step += 1

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; tensors, numbers and containers of them."""
        return {
            "step": self.step,
            "norm": self.norm.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.norm.load_state_dict(state["norm"])
        self.heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _lr_share(self) -> float:
        """Of the peak: linear warm-up, then linear to zero, as the paper's UperNet is trained."""
        recipe = self.recipe
        if self.step < recipe.warmup_steps:
            return (self.step + 1) / (recipe.warmup_steps + 1)
        return (recipe.steps - self.step) / (recipe.steps - recipe.warmup_steps)

    def _sum_gradients(self, bench: Bench) -> None:
        if bench.group is None:
            return
        gradients = [one.grad for one in self.heads.parameters() if one.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=bench.group)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, part in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


def _parts(
    tokens_MhwD: torch.Tensor, labels_MPP: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pairs = zip(tokens_MhwD.split(LOSS_CROPS), labels_MPP.split(LOSS_CROPS), strict=True)
    yield from pairs
