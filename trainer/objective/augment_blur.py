"""Gaussian blur of a batch, each sample with its own width.

Shapes: K samples, C channels, H and W height and width, T taps.
"""

import math

import torch
from torch.nn import functional

REFERENCE_PX = 224
"""Side of the crops for which the settings give the blur's width."""


def scaled_sigmas(sigmas: tuple[float, float], global_px: int) -> tuple[float, float]:
    """The range of widths for a run whose global crops have another side than 224 px."""
    factor = global_px / REFERENCE_PX
    return sigmas[0] * factor, sigmas[1] * factor


def blur_radius(largest_sigma: float) -> int:
    """Taps on each side of the centre: 4 for a width of 2, the kernel of 9 that StableRep uses."""
    return max(1, math.ceil(2.0 * largest_sigma))


def gaussian_blur(images_KCHW: torch.Tensor, sigmas_K: torch.Tensor, radius: int) -> torch.Tensor:
    """Blur every sample by its own width, edges reflected, as torchvision's `gaussian_blur` does.

    Args:
        images_KCHW: float32, sides above `radius`.
        sigmas_K: float32 (K,), above zero.
        radius: taps on each side of the centre.

    Returns:
        A new tensor like `images_KCHW`.
    """
    offsets_T = torch.arange(-radius, radius + 1, device=images_KCHW.device, dtype=torch.float32)
    taps_KT = torch.softmax(-0.5 * (offsets_T / sigmas_K[:, None]) ** 2, dim=1)
    padded = functional.pad(images_KCHW, (radius, radius, radius, radius), mode="reflect")
    return _weighted_shifts(_weighted_shifts(padded, taps_KT, dim=3), taps_KT, dim=2)


def _weighted_shifts(images: torch.Tensor, taps_KT: torch.Tensor, dim: int) -> torch.Tensor:
    # Few taps: adding shifted views is faster than K * C convolutions of one channel each.
    num_taps = taps_KT.shape[1]
    length = images.shape[dim] - num_taps + 1
    weights = taps_KT.t()[:, :, None, None, None]
    total = images.narrow(dim, 0, length) * weights[0]
    for tap in range(1, num_taps):
        total.addcmul_(images.narrow(dim, tap, length), weights[tap])
    return total
