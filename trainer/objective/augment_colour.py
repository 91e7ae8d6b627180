"""Colour jitter, greyscale and solarisation of a batch, each sample with its own parameters.

Brightness, contrast and saturation are one operation, a blend of the image with black, with the
mean of its grey version or with its grey version: out = clamp(gain * x + grey_weight * grey(x) +
mean_weight * mean(grey(x))). A sample that is left alone has gain 1 and weights 0, so that the
whole batch takes one path; greyscale is the blend with gain 0 and grey weight 1.

Shapes: N samples, C = 3 channels, H and W height and width, K samples of a subset.
"""

from dataclasses import dataclass

import torch

LUMA = (0.2989, 0.587, 0.114)
"""Weights of torchvision's rgb_to_grayscale."""
SOLARISE_THRESHOLD = 128 / 255
"""Paper and StableRep invert values from 128 of 255 on."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights of one blend; float32 (N,) each."""

    gain_N: torch.Tensor
    grey_weight_N: torch.Tensor
    mean_weight_N: torch.Tensor


def grey_of(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Luma of float images (N, 3, H, W); returns (N, 1, H, W)."""
    red, green, blue = images_NCHW.unbind(dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)


def blend(images_NCHW: torch.Tensor, weights: Blend) -> torch.Tensor:
    """Blend every sample with its own weights; float images in [0, 1] in and out."""
    grey_N1HW = grey_of(images_NCHW)
    mean_N111 = grey_N1HW.mean(dim=(2, 3), keepdim=True)
    offset_N1HW = grey_N1HW * _per_sample(weights.grey_weight_N)
    offset_N1HW.add_(mean_N111 * _per_sample(weights.mean_weight_N))
    return torch.addcmul(offset_N1HW, images_NCHW, _per_sample(weights.gain_N)).clamp_(0.0, 1.0)


def shift_hue(images_KCHW: torch.Tensor, turns_K: torch.Tensor) -> torch.Tensor:
    """Turn the hue of every sample by its own share of a full turn, as `adjust_hue` does.

    With v the largest channel, c the chroma v - min and h the hue in sixths of a turn, channel n
    of (red 5, green 3, blue 1) is v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6.

    Args:
        images_KCHW: float, in [0, 1].
        turns_K: float (K,), in [-1/2, 1/2].

    Returns:
        A new tensor like `images_KCHW`.
    """
    red, green, blue = images_KCHW.unbind(dim=1)
    low, value = torch.aminmax(images_KCHW, dim=1)
    chroma = value - low
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixths = sixths + 6.0 * turns_K[:, None, None]
    channels = [_hue_channel(value, chroma, sixths, offset) for offset in (5.0, 3.0, 1.0)]
    return torch.stack(channels, dim=1)


def solarise(images_KCHW: torch.Tensor) -> torch.Tensor:
    """Invert what is not darker than the threshold; float images in [0, 1]."""
    return torch.where(images_KCHW >= SOLARISE_THRESHOLD, 1.0 - images_KCHW, images_KCHW)


def _hue_channel(
    value: torch.Tensor, chroma: torch.Tensor, sixths: torch.Tensor, offset: float
) -> torch.Tensor:
    k = torch.remainder(sixths + offset, 6.0)
    return value - chroma * torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)


def _per_sample(values_N: torch.Tensor) -> torch.Tensor:
    return values_N[:, None, None, None]
