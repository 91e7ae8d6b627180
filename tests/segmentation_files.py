"""A small segmentation folder, made for tests, and a frozen backbone that can tell its colours."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from evaluation.backbone import FrozenBackbone

COLOURS = np.array([[0, 0, 0], [200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=np.uint8)
"""By label; 0 is ignored."""
CROP_PX = 32


def blocks(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A label map of rectangles, uint8 (H, W), every label at least once."""
    rows, columns = -(-height // 16), -(-width // 16)
    coarse = random.integers(1, len(COLOURS), (rows, columns))
    coarse.flat[: len(COLOURS)] = np.arange(len(COLOURS))
    return np.kron(coarse, np.ones((16, 16), dtype=np.uint8))[:height, :width].astype(np.uint8)


def write_segmentation(root: Path, num_training: int = 8, num_validation: int = 3) -> Path:
    """Pictures whose colour is their label, of several sizes."""
    random = np.random.default_rng(0)
    for split, count in (("training", num_training), ("validation", num_validation)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            labels_HW = blocks(random, 40 + 8 * (index % 3), 56)
            noise = random.integers(-20, 20, (*labels_HW.shape, 3))
            pixels = (COLOURS[labels_HW].astype(int) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            Image.fromarray(labels_HW).save(root / "annotations" / split / f"{index}.png")
    return root


def tiny_backbone() -> FrozenBackbone:
    """A ViT of one block with random weights: colours pass through it."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=CROP_PX,
        patch_size=8,
        embed_dim=48,
        depth=1,
        num_heads=3,
        num_classes=0,
        dynamic_img_size=True,
    )
    return FrozenBackbone(
        "tiny",
        "random",
        model.eval().requires_grad_(False),
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        CROP_PX,
        "tiny-0",
    )
