"""Small backbones and splits in memory, and one that kills its process, for tests of evaluation."""

import hashlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

import timm
import torch
from PIL import Image

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError
from evaluation.splits import Label, LabelledSplit, SplitName

IMAGE_PX = 16


def tiny_backbone(name: str = "tiny", seed: int = 0) -> FrozenBackbone:
    """A ViT of two blocks with random weights, for images of 16 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=0,
            img_size=IMAGE_PX,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=3,
        )
    return FrozenBackbone(
        name=name,
        origin="made up for a test",
        model=model.eval().requires_grad_(False),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        image_px=IMAGE_PX,
        identity=hashlib.sha256(f"tiny {seed}".encode()).hexdigest(),
    )


@dataclass
class MemorySplit:
    """`num_images` noisy images of `num_classes` colours, every one drawn from its index.

    reads: indices read so far. kill_at: reading this one ends the process as a crash would.
    bad_at: this one cannot be read.
    """

    num_images: int
    num_classes: int = 3
    name: str = "colours (train)"
    several: bool = False
    kill_at: int | None = None
    bad_at: int | None = None
    seed: int = 0
    reads: list[int] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return f"{self.num_images} {self.num_classes} {self.several} {self.seed}"

    @property
    def class_names(self) -> Sequence[str]:
        return [f"class {index}" for index in range(self.num_classes)]

    def __len__(self) -> int:
        return self.num_images

    def label(self, index: int) -> Label:
        number = (index * 7 + index // 5) % self.num_classes
        if not self.several:
            return number
        return torch.arange(self.num_classes) <= number

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        self.reads.append(index)
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.bad_at:
            raise EvaluationError(f"image {index} cannot be read.")
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        height, width = 20 + index % 3, 24 + index % 5
        pixels = torch.randint(0, 120, (height, width, 3), generator=generator, dtype=torch.uint8)
        label = self.label(index)
        if isinstance(label, int):
            pixels[..., label % 3] += 60
        return Image.fromarray(pixels.numpy()), label


@dataclass(frozen=True)
class MemoryData:
    """Splits by name."""

    splits: dict[SplitName, LabelledSplit]
    name: str = "colours"

    @property
    def split_names(self) -> Sequence[SplitName]:
        return list(self.splits)

    def split(self, name: SplitName) -> LabelledSplit:
        return self.splits[name]
