"""Patch tokens of uint8 images, frozen, in the bench's precision.

Shapes: N images, H x W pixels, h x w patches, D features.
"""

import torch

from evaluation.backbone import FrozenBackbone, patch_side_px
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.preprocessing import normalise
from trainer.objective.precision import autocast

PAPER_PX = 512
"""Side of the paper's crops: 512 at 16 pixels a patch, and the nearest multiple of 14, 518."""


def default_crop_px(backbone: FrozenBackbone) -> int:
    """The multiple of the patch that is nearest to `PAPER_PX`."""
    patch = patch_px(backbone)
    return round(PAPER_PX / patch) * patch


def patch_px(backbone: FrozenBackbone) -> int:
    """Side of a patch.

    Raises:
        EvaluationError: the backbone has none.
    """
    patch = patch_side_px(backbone.model)
    if patch is None:
        raise EvaluationError(
            f"{backbone.name} has no patch tokens; --task segmentation needs a vision transformer."
        )
    return patch


@torch.no_grad()
def patch_tokens(backbone: FrozenBackbone, images_N3HW: torch.Tensor, bench: Bench) -> torch.Tensor:
    """float32 (N, h, w, D) on the bench's device, at most `batch_images` at a time.

    Raises:
        EvaluationError: the backbone cannot take images of this size.
    """
    with autocast(bench.precision, bench.device):
        parts = [_tokens(backbone, part, bench) for part in images_N3HW.split(bench.batch_images)]
    return torch.cat(parts)


def _tokens(backbone: FrozenBackbone, images: torch.Tensor, bench: Bench) -> torch.Tensor:
    on_device = images.to(bench.device, non_blocking=True)
    try:
        return backbone.patch_tokens(normalise(on_device, backbone.mean, backbone.std)).float()
    except (AssertionError, RuntimeError) as error:
        height, width = images.shape[-2:]
        if isinstance(error, torch.OutOfMemoryError) or (height, width) == (backbone.image_px,) * 2:
            raise
        raise EvaluationError(
            f"{backbone.name} takes no images of {width} x {height} pixels "
            f"({' '.join(str(error).split())[:150]}); use --predict slide, and give --image-px."
        ) from None
