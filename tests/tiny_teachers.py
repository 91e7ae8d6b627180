"""Frozen teachers small enough for tests: random models of timm's in its own folder format."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf  # type: ignore[attr-defined]

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
"""Of the input of the teachers made here; unlike the views'."""
VIT = {"patch_size": 3, "embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 12}
"""Four patches a row, as the tiny student has of its global crops of 16 px."""


def save_teacher(
    folder: Path, name: str = "vit_tiny_patch16_224", seed: int = 7, **args: Any
) -> str:
    """Write one with random weights and return what names it in the settings."""
    arguments = args or VIT
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=0, **arguments)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    config = {**model.pretrained_cfg, "mean": MEAN, "std": STD, "num_classes": 0}
    save_for_hf(model, str(folder), {"pretrained_cfg": config}, arguments, safe_serialization=True)
    return f"local-dir:{folder}"
