"""The judge: an independent classifier of concepts, trained on real compositions only.

It never sees a generated picture, a caption or the codec. Its penultimate features are also the
space in which the spread within a group is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from recipes.embedded_image_model.compose import Composer
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import JudgeConfig
from recipes.embedded_image_model.scenes import random_wish
from recipes.embedded_image_model.training import Clock, cosine_rate


class Block(nn.Module):
    """A residual block; halves the side when `stride` is 2."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.skip = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        inner = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(inner)) + self.skip(x))


class Judge(nn.Module):
    """A small residual network over 64 px images in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 5, 2, 2), nn.ReLU(),
            Block(w, 2 * w, 2), Block(2 * w, 4 * w, 2), Block(4 * w, 8 * w, 2),
        )  # fmt: skip
        self.head = nn.Linear(8 * w, len(CONCEPTS))

    def features(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, D)."""
        return self.body(images_B3SS * 2 - 1).mean(dim=(2, 3))

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Concept logits (B, K)."""
        return self.head(self.features(images_B3SS))


def sample(composer: Composer, count: int, rng: torch.Generator):
    """Compositions (B, 3, S, S) of random wishes and their first concepts (B,)."""
    wishes = [random_wish(rng) for _ in range(count)]
    labels = torch.tensor([wish.concept for wish in wishes])
    return composer.compose(wishes).images_B3SS, labels


def train(composer: Composer, work: Path, config: JudgeConfig, *, seed: int) -> Judge:
    """Train on fresh compositions, some blurred; cached in `work/judge.pt`."""
    torch.manual_seed(seed)
    judge = Judge(config.width)
    saved = work / "judge.pt"
    if saved.exists():
        judge.load_state_dict(torch.load(saved))
        return judge.eval()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=config.rate, weight_decay=0.02)
    rng = torch.Generator().manual_seed(seed)
    clock = Clock("judge", config.steps, 0)
    right = 0.0
    for step in range(config.steps):
        images, labels = sample(composer, config.batch, rng)
        if step % 3 == 0:
            images = gaussian_blur(images, 5, [0.4 + 0.8 * torch.rand(1).item()])
        images = images + 0.02 * torch.randn_like(images)
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, config.steps, config.rate, warm=100)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        right = 0.98 * right + 0.02 * (logits.argmax(1) == labels).float().mean().item()
        clock.tick(step, f"loss {loss.item():.3f} right {right:.3f}")
    torch.save(judge.state_dict(), saved)
    return judge.eval()


@torch.no_grad()
def accuracy(
    judge: Judge,
    composer: Composer,
    *,
    count: int,
    seed: int,
    through: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Top-1 on `count` compositions that the training never drew.

    through: what to do with the images first, such as encoding and decoding them.
    """
    rng = torch.Generator().manual_seed(seed)
    hits = 0
    for _ in range(0, count, 128):
        images, labels = sample(composer, 128, rng)
        if through is not None:
            images = through(images)
        hits += int((judge(images).argmax(1) == labels).sum())
    return hits / (128 * ((count + 127) // 128))
