"""Random resized crops of a batch, each sample with its own box, as two batched matmuls.

A bicubic antialiased crop-resize is linear and separable: every output row is a weighted sum of
input rows. The weights, one matrix a sample and axis, are those of PIL and of torch's
`interpolate(mode="bicubic", antialias=True)`; a flip reverses the horizontal matrix, and a
down-and-up resampling before the crop is a product with another matrix.

Shapes: N samples, C channels, H and W input height and width, S input side along one axis,
O output side, D attempts at a box.
"""

import math

import torch

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""The range of RandomResizedCrop, which paper and StableRep keep."""
ATTEMPTS = 10
"""Boxes drawn before falling back to the centre, as in torchvision's RandomResizedCrop."""
CUBIC_SUPPORT = 2.0


def draw_boxes(
    num: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Boxes of RandomResizedCrop, all at once.

    Args:
        num: N, boxes to draw.
        height: input height in pixels.
        width: input width in pixels.
        scale: smallest and largest share of the input's area.
        generator: a CPU generator.

    Returns:
        int64 (N, 4): top, left, height, width.
    """
    uniform_4ND = torch.rand((4, num, ATTEMPTS), generator=generator, dtype=torch.float64)
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    area_ND = height * width * (scale[0] + (scale[1] - scale[0]) * uniform_4ND[0])
    aspect_ND = torch.exp(low + (high - low) * uniform_4ND[1])
    widths_ND = (area_ND * aspect_ND).sqrt().round()
    heights_ND = (area_ND / aspect_ND).sqrt().round()
    fits_ND = (widths_ND >= 1) & (widths_ND <= width) & (heights_ND >= 1) & (heights_ND <= height)
    tops_ND = (uniform_4ND[2] * (height - heights_ND + 1)).floor()
    lefts_ND = (uniform_4ND[3] * (width - widths_ND + 1)).floor()
    boxes_ND4 = torch.stack((tops_ND, lefts_ND, heights_ND, widths_ND), dim=-1)
    first_N = fits_ND.to(torch.uint8).argmax(dim=1)
    chosen_N4 = boxes_ND4[torch.arange(num), first_N]
    fallback_4 = torch.tensor(_centre_box(height, width), dtype=torch.float64)
    return torch.where(fits_ND.any(dim=1, keepdim=True), chosen_N4, fallback_4).long()


def resample_matrices(
    starts_N: torch.Tensor,
    lengths_N: torch.Tensor,
    *,
    side: int,
    out: int,
    flips_N: torch.Tensor | None = None,
) -> torch.Tensor:
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
        float32 (N, O, S) on the device of `starts_N`.
    """
    device = starts_N.device
    steps_N1 = lengths_N[:, None].float() / out
    index_O = torch.arange(out, device=device, dtype=torch.float32)
    centres_NO = steps_N1 * (index_O + 0.5)
    if flips_N is not None:
        centres_NO = torch.where(flips_N[:, None], lengths_N[:, None] - centres_NO, centres_NO)
    pixels_NS = torch.arange(side, device=device) - starts_N[:, None]
    inside_NS = (pixels_NS >= 0) & (pixels_NS < lengths_N[:, None])
    distances_NOS = (pixels_NS[:, None].float() + 0.5) - centres_NO[:, :, None]
    distances_NOS.mul_(1.0 / steps_N1.clamp(min=1.0)[:, :, None])
    weights_NOS = _cubic(distances_NOS).mul_(inside_NS[:, None])
    return weights_NOS.div_(weights_NOS.sum(dim=2, keepdim=True))


def down_and_up_matrix(side: int, middle: int, device: torch.device) -> torch.Tensor:
    """Weights that resize `side` pixels to `middle` and back; float32 (side, side)."""
    start_1 = torch.zeros(1, dtype=torch.int64, device=device)
    down_1MS = resample_matrices(start_1, start_1 + side, side=side, out=middle)
    up_1SM = resample_matrices(start_1, start_1 + middle, side=middle, out=side)
    return (up_1SM @ down_1MS)[0]


def rows_first(images_NCHW: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1], (N, H, C, W): the layout `resample` reads."""
    return images_NCHW.permute(0, 2, 1, 3).contiguous().float().div_(255.0)


def resample(
    images_NHCW: torch.Tensor, rows_NOH: torch.Tensor, columns_NOW: torch.Tensor
) -> torch.Tensor:
    """Apply the weights of both axes.

    Args:
        images_NHCW: float32, from `rows_first`.
        rows_NOH: float32, vertical weights.
        columns_NOW: float32, horizontal weights.

    Returns:
        float32 (N, C, O, O), contiguous, within [0, 1]: bicubic overshoot is cut, as with uint8.
    """
    num, height, channels, width = images_NHCW.shape
    out = rows_NOH.shape[1]
    tall_NOX = torch.bmm(rows_NOH, images_NHCW.view(num, height, channels * width))
    crops_NXO = torch.bmm(tall_NOX.view(num, out * channels, width), columns_NOW.transpose(1, 2))
    crops_NOCO = crops_NXO.view(num, out, channels, columns_NOW.shape[1])
    return crops_NOCO.permute(0, 2, 1, 3).contiguous().clamp_(0.0, 1.0)


def _centre_box(height: int, width: int) -> tuple[int, int, int, int]:
    low, high = ASPECT_RATIOS
    box_height, box_width = height, width
    if width < low * height:
        box_height = round(width / low)
    elif width > high * height:
        box_width = round(height * high)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _cubic(distances: torch.Tensor) -> torch.Tensor:
    # Beyond the support the outer polynomial is evaluated at 2, where it is zero.
    x = distances.abs_().clamp_(max=CUBIC_SUPPORT)
    near = ((1.5 * x - 2.5) * x).mul_(x).add_(1.0)
    far = ((-0.5 * x).add_(2.5).mul_(x).sub_(4.0)).mul_(x).add_(2.0)
    return torch.where(x < 1.0, near, far)
