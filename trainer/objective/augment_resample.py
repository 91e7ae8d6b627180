"""Crop, resize and flip a batch, each sample with its own box, as two matrix products.

A bicubic antialiased crop-resize is linear and separable: every output row is a weighted sum of
input rows. The weights, one matrix a sample and axis, are those of PIL and of torch's
`interpolate(mode="bicubic", antialias=True)`; a flip reverses the horizontal matrix, and a
down-and-up resampling before the crop is a product with another matrix.

Shapes: N samples, C channels, H and W input height and width, S input side along one axis,
O output side, T taps: input pixels that an output pixel may weigh.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

CUBIC_SUPPORT = 2.0

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels of the input."""


@dataclass(frozen=True, slots=True)
class Taps:
    """The weights along one axis that may be other than zero: 6 to 12 of 256 in a row.

    `pixels_NOT` int64, all different in a row; `weights_NOT` float32; `side` S, of the input.
    """

    pixels_NOT: torch.Tensor
    weights_NOT: torch.Tensor
    side: int

    def matrices(self, part: slice = slice(None)) -> torch.Tensor:
        """All weights of some of the samples, float32 (N, O, S)."""
        weights_NOT = self.weights_NOT[part]
        weights_NOS = weights_NOT.new_zeros((*weights_NOT.shape[:2], self.side))
        return weights_NOS.scatter_(2, self.pixels_NOT[part], weights_NOT)


def resample_taps(
    starts_N: torch.Tensor,
    lengths_N: torch.Tensor,
    *,
    side: int,
    out: int,
    flips_N: torch.Tensor | None = None,
) -> Taps:
    """Bicubic antialiased weights along one axis.

    Row o weighs input pixel j of the interval [start, start + length) by
    k((j - start + 1/2 - c_o) / max(s, 1)), with s = length / out, c_o = s (o + 1/2) and k the
    cubic convolution kernel with a = -1/2; each row sums to one.

    Args:
        starts_N: int64 (N,), first pixel of each sample's interval.
        lengths_N: int64 (N,), pixels in the interval.
        side: S, pixels of the input along the axis.
        out: O, pixels of the output along the axis.
        flips_N: bool (N,), samples whose output is mirrored; none: no sample.

    Returns:
        The weights, on the device of `starts_N`.
    """
    steps_N1 = lengths_N[:, None].float() / out
    index_O = torch.arange(out, device=starts_N.device, dtype=torch.float32)
    centres_NO = steps_N1 * (index_O + 0.5)
    if flips_N is not None:
        centres_NO = torch.where(flips_N[:, None], lengths_N[:, None] - centres_NO, centres_NO)
    scales_N1 = steps_N1.clamp(min=1.0)
    pixels_NOT = _tapped_pixels(starts_N[:, None] + centres_NO, scales_N1, side=side, out=out)
    inside_NOT = pixels_NOT - starts_N[:, None, None]
    distances_NOT = (inside_NOT.float() + 0.5).sub_(centres_NO[:, :, None]).div_(scales_N1[:, None])
    weights_NOT = _cubic(distances_NOT)
    weights_NOT.mul_((inside_NOT >= 0) & (inside_NOT < lengths_N[:, None, None]))
    return Taps(pixels_NOT, weights_NOT.div_(weights_NOT.sum(dim=2, keepdim=True)), side)


def down_and_up_matrix(side: int, middle: int, device: torch.device) -> torch.Tensor:
    """Weights that resize `side` pixels to `middle` and back; float32 (side, side)."""
    start_1 = torch.zeros(1, dtype=torch.int64, device=device)
    down_1MS = resample_taps(start_1, start_1 + side, side=side, out=middle).matrices()
    up_1SM = resample_taps(start_1, start_1 + middle, side=middle, out=side).matrices()
    return (up_1SM @ down_1MS)[0]


def rows_first(images_NCHW: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1], (N, H, C, W): the layout `resample` reads."""
    return images_NCHW.permute(0, 2, 1, 3).contiguous().float().div_(255.0)


def resample(
    images_NHCW: torch.Tensor,
    rows_NOH: torch.Tensor,
    columns_NOW: torch.Tensor,
    boxes: Iterable[Box] | None = None,
) -> torch.Tensor:
    """Apply the weights of both axes.

    Args:
        images_NHCW: float32, from `rows_first`.
        rows_NOH: float32, vertical weights.
        columns_NOW: float32, horizontal weights.
        boxes: one a sample, outside of which all its weights are zero;
            only the pixels inside are multiplied, sample by sample. None: all pixels of all
            samples at once, which is what a GPU does best.

    Returns:
        float32 (N, C, O, O), contiguous, within [0, 1]: bicubic overshoot is cut, as with uint8.
    """
    num, height, channels, width = images_NHCW.shape
    shape = (num, rows_NOH.shape[1], channels, columns_NOW.shape[1])
    if boxes is None:
        wide = torch.bmm(images_NHCW.view(num, -1, width), columns_NOW.transpose(1, 2))
        crops_NOCO = torch.bmm(rows_NOH, wide.view(num, height, -1)).view(shape)
    else:
        crops_NOCO = images_NHCW.new_empty(shape)
        samples = zip(images_NHCW, rows_NOH, columns_NOW, crops_NOCO, boxes, strict=True)
        for image_HCW, rows_OH, columns_OW, out_OCO, box in samples:
            _resample_box(image_HCW, rows_OH, columns_OW, out_OCO, box)
    return crops_NOCO.permute(0, 2, 1, 3).contiguous().clamp_(0.0, 1.0)


def _resample_box(
    image_HCW: torch.Tensor,
    rows_OH: torch.Tensor,
    columns_OW: torch.Tensor,
    out_OCO: torch.Tensor,
    box: Box,
) -> None:
    top, left, height, width = box
    box_XW = image_HCW[top : top + height].flatten(0, 1)[:, left : left + width]
    wide_XO = torch.mm(box_XW, columns_OW[:, left : left + width].t())
    torch.mm(rows_OH[:, top : top + height], wide_XO.view(height, -1), out=out_OCO.flatten(1))


def _tapped_pixels(
    centres_NO: torch.Tensor, scales_N1: torch.Tensor, *, side: int, out: int
) -> torch.Tensor:
    """Neighbouring pixels that hold all an output pixel weighs, int64 (N, O, T), all different.

    Their number is that of the longest interval there can be, which asks no device.
    """
    num_taps = min(side, math.ceil(2.0 * CUBIC_SUPPORT * max(side / out, 1.0)) + 1)
    firsts_NO = (centres_NO - CUBIC_SUPPORT * scales_N1).floor().clamp_(0, side - num_taps).long()
    return firsts_NO[:, :, None] + torch.arange(num_taps, device=centres_NO.device)


def _cubic(distances: torch.Tensor) -> torch.Tensor:
    # Beyond the support the outer polynomial is evaluated at 2, where it is zero.
    x = distances.abs_().clamp_(max=CUBIC_SUPPORT)
    near = ((1.5 * x - 2.5) * x).mul_(x).add_(1.0)
    far = ((-0.5 * x).add_(2.5).mul_(x).sub_(4.0)).mul_(x).add_(2.0)
    return torch.where(x < 1.0, near, far)
