"""A class for each pixel of an image of any size.

    slide   windows of the training crop's size, overlapping; logits averaged where they do
    whole   the image at once, its sides rounded to multiples of the patch

Logits are upsampled bilinearly to the label map's size, as the published figures are measured.

Shapes: K windows, P pixels a window's side, h x w patches, D features, C classes; H x W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate, pad

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.segmentation.heads import LinearHeads, TokenNorm
from evaluation.segmentation.tokens import patch_px, patch_tokens

CLASSES_AT_ONCE = 16
"""Upsampled together: of 150 classes at 2000 x 3000 pixels the logits alone would take 3.6 GB."""


@dataclass(frozen=True)
class Windows:
    """How an image is cut. stride_px: None is the whole image at once."""

    crop_px: int
    stride_px: int | None


def predictions(
    image_3HW: torch.Tensor,
    size: tuple[int, int],
    backbone: FrozenBackbone,
    norm: TokenNorm,
    heads: LinearHeads,
    windows: Windows,
    bench: Bench,
) -> Iterator[torch.Tensor]:
    """Each head's classes in turn, int64 of `size`; the backbone runs once.

    Raises:
        EvaluationError: the backbone cannot take images of this size.
    """
    if windows.stride_px is None:
        tokens_KhwD = norm(patch_tokens(backbone, _rounded(image_3HW, backbone), bench))
        for head in range(len(heads)):
            yield upsampled_argmax(heads.logits(head, tokens_KhwD), size)
        return
    height, width = image_3HW.shape[-2:]
    crop_px = windows.crop_px
    padded = pad(image_3HW, (0, max(crop_px - width, 0), 0, max(crop_px - height, 0)))
    corners = [
        (top, left)
        for top in starts(padded.shape[-2], crop_px, windows.stride_px)
        for left in starts(padded.shape[-1], crop_px, windows.stride_px)
    ]
    crops = [padded[:, top : top + crop_px, left : left + crop_px] for top, left in corners]
    tokens_KhwD = norm(patch_tokens(backbone, torch.stack(crops), bench))
    for head in range(len(heads)):
        logits_KChw = heads.logits(head, tokens_KhwD)
        logits_CHW = _averaged(logits_KChw, corners, crop_px, padded.shape[-2:])
        yield upsampled_argmax(logits_CHW[None, :, :height, :width], size)


def starts(side_px: int, crop_px: int, stride_px: int) -> list[int]:
    """Where windows begin along a side of at least `crop_px`; the last one ends at its end."""
    last = side_px - crop_px
    return [*range(0, last, stride_px), last]


def upsampled_argmax(logits_1Chw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """argmax over C of the logits resized to `size`, int64; some classes at a time."""
    best_HW = torch.full(size, -torch.inf, device=logits_1Chw.device)
    class_HW = torch.zeros(size, dtype=torch.int64, device=logits_1Chw.device)
    for start in range(0, logits_1Chw.shape[1], CLASSES_AT_ONCE):
        part = logits_1Chw[:, start : start + CLASSES_AT_ONCE]
        resized = interpolate(part, size, mode="bilinear", align_corners=False)[0]
        top_HW, index_HW = resized.max(0)
        better_HW = top_HW > best_HW
        best_HW = torch.where(better_HW, top_HW, best_HW)
        class_HW = torch.where(better_HW, index_HW + start, class_HW)
    return class_HW


def _averaged(
    logits_KChw: torch.Tensor, corners: list[tuple[int, int]], crop_px: int, size: torch.Size
) -> torch.Tensor:
    """Mean over the windows of each pixel, float (C, H, W)."""
    sum_CHW = logits_KChw.new_zeros(logits_KChw.shape[1], *size)
    count_HW = logits_KChw.new_zeros(*size)
    for (top, left), logits_Chw in zip(corners, logits_KChw, strict=True):
        place = (..., slice(top, top + crop_px), slice(left, left + crop_px))
        sum_CHW[place] += interpolate(logits_Chw[None], (crop_px, crop_px), mode="bilinear")[0]
        count_HW[place] += 1
    return sum_CHW / count_HW


def _rounded(image_3HW: torch.Tensor, backbone: FrozenBackbone) -> torch.Tensor:
    """(1, 3, H', W'), the sides rounded to multiples of the patch."""
    patch = patch_px(backbone)
    sides = [max(round(side / patch), 1) * patch for side in image_3HW.shape[-2:]]
    resized = interpolate(image_3HW[None].float(), sides, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte()
