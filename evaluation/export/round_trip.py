"""Whether what was written computes what was trained: the last word before an export is an export.

In float64, where sums in another order differ by 1e-13 and anything wrong by far more.

Shapes: N images, D features.
"""

from pathlib import Path

import timm
import torch

from evaluation.errors import EvaluationError
from evaluation.sources.checkpoint import Checkpoint, Network
from trainer.objective.backbone import Backbone, build_backbone

TOLERANCE = 1e-8
_NUM_IMAGES = 2


def check_round_trip(
    folder: Path, checkpoint: Checkpoint, network: Network, image_px: int
) -> float:
    """Load the folder as anyone would, and compare its features with the trainer's own backbone's.

    Args:
        image_px: side of the export's input; a smaller size is compared as well.

    Returns:
        By how much they are apart at most, as a share of the largest feature.

    Raises:
        EvaluationError: by more than `TOLERANCE`.
    """
    exported = timm.create_model(f"local-dir:{folder}", pretrained=True).double().eval()
    own = trained_backbone(checkpoint, network, image_px).double().eval()
    largest = 0.0
    smaller_px = max(own.patch_px, image_px // 2 // own.patch_px * own.patch_px)
    for side_px in (image_px, smaller_px):
        generator = torch.Generator().manual_seed(side_px)
        images = torch.randn(
            (_NUM_IMAGES, 3, side_px, side_px), generator=generator, dtype=torch.float64
        )
        with torch.inference_mode():
            found_ND, expected_ND = exported(images), own(images)
        apart = _largest_difference(found_ND, expected_ND)
        if not apart <= TOLERANCE:
            raise EvaluationError(
                f"trainer.backbone={checkpoint.config.trainer.backbone}: timm's model has other "
                f"features than the trained one at {side_px} px (apart by {apart:.1g}), or none "
                "that are finite; this backbone cannot be exported."
            )
        largest = max(largest, apart)
    return largest


def trained_backbone(checkpoint: Checkpoint, network: Network, image_px: int) -> Backbone:
    """The trainer's own module with a checkpoint's weights, without a mask token."""
    trainer = checkpoint.config.trainer
    crops = trainer.crops.model_copy(update={"global_px": image_px})
    sized = trainer.model_copy(update={"crops": crops, "pretrained": False})
    own = build_backbone(sized, drop_path=0.0, mask_token=False)
    own.vit.load_state_dict(checkpoint.weights(network))
    return own


def _largest_difference(found_ND: torch.Tensor, expected_ND: torch.Tensor) -> float:
    """As a share of the largest feature; NaN where any feature is not finite."""
    if found_ND.shape != expected_ND.shape:
        return float("inf")
    scale = expected_ND.abs().max().clamp(min=1.0)
    return float((found_ND - expected_ND).abs().max() / scale)
