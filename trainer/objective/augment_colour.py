"""Colour jitter, greyscale and solarisation of a batch, each sample with its own parameters.

Brightness, contrast and saturation are one operation, a blend of the image with black, with the
mean of its grey version or with its grey version: out = clamp(gain * x + grey_weight * grey(x) +
mean_weight * mean(grey(x))). A sample that is left alone has gain 1 and weights 0, so that the
whole batch takes one path.

On a CPU the time is that of the passes over memory: what can be is done in place, and by
operations that torch has vector code for (`where` and `remainder` take 10 to 80 times as long).

Shapes: N samples, C = 3 channels, H and W height and width, K samples of a subset.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

LUMA = (0.2989, 0.587, 0.114)
"""Weights of torchvision's rgb_to_grayscale."""
SOLARISE_THRESHOLD = 128 / 255
"""Paper and StableRep invert values from 128 of 255 on."""
SMALLEST_CHROMA = 1e-30


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights of one blend; float32 (N,) each. None: no sample has any."""

    gain_N: torch.Tensor
    grey_weight_N: torch.Tensor | None
    mean_weight_N: torch.Tensor | None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Blend":
        """The same with every tensor changed."""
        grey, mean = self.grey_weight_N, self.mean_weight_N
        return Blend(
            change(self.gain_N),
            None if grey is None else change(grey),
            None if mean is None else change(mean),
        )

    def without_idle(self) -> "Blend | None":
        """Without weights that are all zero; None: no sample is changed. On the CPU only."""
        grey, mean = _unless_zero(self.grey_weight_N), _unless_zero(self.mean_weight_N)
        if grey is None and mean is None and bool((self.gain_N == 1.0).all()):
            return None
        return Blend(self.gain_N, grey, mean)


def grey_of(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Luma of float images (N, 3, H, W); returns (N, 1, H, W)."""
    red, green, blue = images_NCHW.unbind(dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)


def grey_(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Luma in all three channels, in place."""
    return images_NCHW.copy_(grey_of(images_NCHW))


def blend_(images_NCHW: torch.Tensor, weights: Blend) -> torch.Tensor:
    """Blend every sample with its own weights, in place; float images in [0, 1] in and out."""
    gain_N111 = _per_sample(weights.gain_N)
    offset = _blend_offset(images_NCHW, weights)
    if offset is None:
        images_NCHW.mul_(gain_N111)
    else:
        torch.addcmul(offset, images_NCHW, gain_N111, out=images_NCHW)
    return images_NCHW.clamp_(0.0, 1.0)


def shift_hue_(images_KCHW: torch.Tensor, turns_K: torch.Tensor) -> torch.Tensor:
    """Turn the hue of every sample by its own share of a full turn, as `adjust_hue` does; in place.

    With v the largest channel, c the chroma v - min and h the hue in sixths of a turn, in [0, 6),
    red is v - c * clamp(2 - |h - 3|, 0, 1), green v - c * clamp(|h - 2| - 1, 0, 1) and blue
    v - c * clamp(|h - 4| - 1, 0, 1).

    Args:
        images_KCHW: float, in [0, 1].
        turns_K: float (K,), in [-1/2, 1/2].

    Returns:
        `images_KCHW`.
    """
    red, green, blue = images_KCHW.unbind(dim=1)
    value, chroma, sixths = _value_chroma_sixths(red, green, blue)
    sixths.add_(6.0 * turns_K[:, None, None])
    sixths.sub_(sixths.mul(1.0 / 6.0).floor_(), alpha=6.0)
    below = torch.sub(value, chroma, alpha=2.0)
    above = value.add_(chroma)
    torch.addcmul(below, _distance(sixths, 3.0), chroma, out=red)
    torch.addcmul(above, _distance(sixths, 2.0), chroma, value=-1.0, out=green)
    torch.addcmul(above, _distance(sixths, 4.0), chroma, value=-1.0, out=blue)
    return images_KCHW


def solarise(images_KCHW: torch.Tensor) -> torch.Tensor:
    """Invert what is not darker than the threshold; float images in [0, 1]."""
    bright = (images_KCHW >= SOLARISE_THRESHOLD).to(images_KCHW.dtype)
    return bright.sub_(images_KCHW).abs_()


def _blend_offset(images_NCHW: torch.Tensor, weights: Blend) -> torch.Tensor | None:
    """What is added to the image; (N, 1, H, W), or (N, 1, 1, 1) if only means have weights."""
    if weights.grey_weight_N is None and weights.mean_weight_N is None:
        return None
    grey_N1HW = grey_of(images_NCHW)
    mean_N111 = None
    if weights.mean_weight_N is not None:
        mean_N111 = grey_N1HW.mean(dim=(2, 3), keepdim=True)
        mean_N111.mul_(_per_sample(weights.mean_weight_N))
    if weights.grey_weight_N is None:
        return mean_N111
    grey_N1HW.mul_(_per_sample(weights.grey_weight_N))
    return grey_N1HW if mean_N111 is None else grey_N1HW.add_(mean_N111)


def _value_chroma_sixths(
    red: torch.Tensor, green: torch.Tensor, blue: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Largest channel, chroma and hue in sixths of a turn, within [0, 6]; grey: any hue.

    Green and blue are put in order, then red and the larger of the two; the hue is
    |z + (middle - other) / chroma| with z = 0, -6, -2 or 4, which follows from the two orders.
    """
    larger, other = torch.maximum(green, blue), torch.minimum(green, blue)
    value, middle = torch.maximum(red, larger), torch.minimum(red, larger)
    chroma = value - torch.minimum(middle, other)
    # -2 or 10 by the first order, and 1/2 or -1/2 by the second: z is their product less 1.
    first = torch.copysign(red.new_full((), 6.0), blue - green).add_(4.0)
    second = torch.copysign(red.new_full((), 0.5), larger.sub_(red))
    # The difference is no larger than the chroma, so that zero by the smallest divisor is zero.
    sixths = middle.sub_(other).div_(chroma.clamp(min=SMALLEST_CHROMA))
    return value, chroma, sixths.addcmul_(first, second).sub_(1.0).abs_()


def _distance(sixths: torch.Tensor, centre: float) -> torch.Tensor:
    """|sixths - centre| within [1, 2]."""
    return (sixths - centre).abs_().clamp_(1.0, 2.0)


def _unless_zero(weights_N: torch.Tensor | None) -> torch.Tensor | None:
    return weights_N if weights_N is not None and bool(weights_N.any()) else None


def _per_sample(values_N: torch.Tensor) -> torch.Tensor:
    return values_N[:, None, None, None]
