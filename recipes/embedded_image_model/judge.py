"""The judge: an independent classifier of concept and background, trained on real compositions.

It never sees a generated picture, a caption or the codec. Its penultimate features are also the
space in which the spread within a group is measured.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.compose import Composer
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES
from recipes.embedded_image_model.config import JudgeConfig
from recipes.embedded_image_model.scenes import random_wish
from recipes.embedded_image_model.training import Clock, cosine_rate

FILE = "judge.safetensors"


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
        self.concept = nn.Linear(8 * w, len(CONCEPTS))
        self.background = nn.Linear(8 * w, len(BACKGROUNDS))

    def features(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, D)."""
        return self.body(images_B3SS * 2 - 1).mean(dim=(2, 3))

    def forward(self, images_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the concept (B, K) and of the background (B, N)."""
        seen = self.features(images_B3SS)
        return self.concept(seen), self.background(seen)


def sample(
    composer: Composer, count: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compositions (B, 3, S, S) of random wishes, their first concepts and backgrounds (B,)."""
    wishes = [random_wish(rng) for _ in range(count)]
    labels = torch.tensor([wish.concept for wish in wishes])
    scenes = composer.compose(wishes)
    return scenes.images_B3SS, labels, scenes.background_B


def load(file: Path, config: JudgeConfig) -> Judge:
    """The judge whose weights are in `file`.

    Raises:
        ValueError: they were trained on other concepts or backgrounds.
    """
    with safe_open(file, "pt") as stored:
        if stored.metadata() != _classes():
            raise ValueError(f"{file} knows other concepts or backgrounds: remove it to train anew")
    judge = Judge(config.width)
    judge.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    return judge.eval()


def _classes() -> dict[str, str]:
    """What the outputs mean, kept with the weights."""
    return {"concepts": "|".join(NAMES), "backgrounds": "|".join(b.phrase for b in BACKGROUNDS)}


def train(composer: Composer, config: JudgeConfig, *, seed: int) -> Judge:
    """Train on fresh compositions, some blurred; written to `config.folder` in half precision.

    A judge that lies there already is taken as it is.
    """
    file = Path(config.folder) / FILE
    if file.exists():
        return load(file, config)
    torch.manual_seed(seed)
    judge = Judge(config.width)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=config.rate, weight_decay=0.02)
    rng = torch.Generator().manual_seed(seed)
    clock = Clock("judge", config.steps, 0)
    right = 0.0
    for step in range(config.steps):
        images, things, places = sample(composer, config.batch, rng)
        if step % 3 == 0:
            images = gaussian_blur(images, 5, [0.4 + 0.8 * torch.rand(1).item()])
        images = images + 0.02 * torch.randn_like(images)
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, config.steps, config.rate, warm=100)
        with torch.autocast("cpu", torch.bfloat16):
            concept, background = judge(images)
        loss = F.cross_entropy(concept.float(), things, label_smoothing=0.05)
        loss = loss + 0.5 * F.cross_entropy(background.float(), places, label_smoothing=0.05)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        right = 0.98 * right + 0.02 * (concept.argmax(1) == things).float().mean().item()
        clock.tick(step, f"loss {loss.item():.3f} right {right:.3f}")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() for k, v in judge.state_dict().items()}, file, metadata=_classes())
    file.chmod(0o644)
    return load(file, config)
