"""Boxes of random resized crops, all of a batch at once.

Shapes: N samples, D attempts at a box.
"""

import math

import torch

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""The range of RandomResizedCrop, which paper and StableRep keep."""
ATTEMPTS = 10
"""Boxes drawn before falling back to the centre, as in torchvision's RandomResizedCrop."""


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


def _centre_box(height: int, width: int) -> tuple[int, int, int, int]:
    low, high = ASPECT_RATIOS
    box_height, box_width = height, width
    if width < low * height:
        box_height = round(width / low)
    elif width > high * height:
        box_width = round(height * high)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
