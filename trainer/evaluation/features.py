"""Features of labelled images: a backbone's CLS token, and two baselines to compare it with.

Shapes: N images, C = 3 channels, S pixels a side, D features.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import interpolate

from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD

RAW_PX = 16
"""Side at which the raw-pixel baseline compares images."""

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Normalised float images (N, 3, S, S) on the model's device -> features (N, D)."""


@torch.no_grad()
def extract(
    embed: Embed, images_NCSS: torch.Tensor, device: torch.device, batch_images: int = 256
) -> torch.Tensor:
    """Features of uint8 images, float32 (N, D) on the CPU; images are only normalised."""
    features = []
    for start in range(0, len(images_NCSS), batch_images):
        normalised = normalise(images_NCSS[start : start + batch_images].to(device))
        features.append(embed(normalised).float().cpu())
    return torch.cat(features)


def raw_pixels(images_NCSS: torch.Tensor) -> torch.Tensor:
    """The baseline without any model: centred pixels at `RAW_PX`, float32 (N, 3 * RAW_PX**2)."""
    small = interpolate(normalise(images_NCSS), (RAW_PX, RAW_PX), mode="bilinear", antialias=True)
    return small.flatten(1)


def normalise(images_NCSS: torch.Tensor) -> torch.Tensor:
    """uint8 images -> float32, with the mean and deviation the training views have."""
    mean_C = torch.tensor(IMAGENET_MEAN, device=images_NCSS.device)
    std_C = torch.tensor(IMAGENET_STD, device=images_NCSS.device)
    images = images_NCSS.float() / 255
    return (images - mean_C[:, None, None]) / std_C[:, None, None]
