"""A checkpoint of another crop size, made to fit: position embeddings are resampled.

Nothing else in the networks depends on the size. The embeddings' moments are forgotten: they are of
other positions, and a resampled square of gradients would be no average of any.

Shapes: S positions of special tokens, T of patches, E embedding dimensions.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.models import VisionTransformer

from online_synclr.config import Config
from trainer.objective.fit_weights import num_special_positions, resample_positions
from trainer.step import TrainStep

POSITIONS = "backbone.vit.pos_embed"


def resampled(
    state: dict[str, Any], config: Config, train: TrainStep, say: Callable[[str], None]
) -> dict[str, Any]:
    """The checkpoint's state for the size of the settings; itself where it fits or may not be made.

    It may in the high-resolution phase, and with `trainer.resample_on_resume`.
    """
    allowed = config.trainer.resample_on_resume or config.trainer.in_high_resolution(state["step"])
    vit = train.model.student.backbone.vit
    old_grid = _grid_of(state["student"].get(POSITIONS), vit)
    new_grid = tuple(vit.patch_embed.grid_size)
    if not allowed or old_grid is None or old_grid == new_grid:
        return state
    say(
        f"the checkpoint's positions are resampled from {old_grid[0]} x {old_grid[1]} to "
        f"{new_grid[0]} x {new_grid[1]} patches"
    )
    networks = {
        name: {
            **state[name],
            POSITIONS: resample_positions(
                state[name][POSITIONS],
                num_special=num_special_positions(vit),
                old_grid=old_grid,
                new_grid=new_grid,
            ),
        }
        for name in ("student", "teacher")
    }
    moved = dict(train.model.student.named_parameters())[POSITIONS]
    optimizer = state["optimizer"]
    if set(optimizer) == set(train.optimizer.names):
        optimizer = train.optimizer.without_moments(optimizer, [moved])
    return {**state, **networks, "optimizer": optimizer}


def _grid_of(positions_1SE: torch.Tensor | None, vit: VisionTransformer) -> tuple[int, int] | None:
    """The square of patches that saved positions are of; None where they are of no square."""
    if positions_1SE is None or positions_1SE.dim() != 3:
        return None
    num_patches = positions_1SE.shape[1] - num_special_positions(vit)
    side = math.isqrt(max(0, num_patches))
    return (side, side) if side * side == num_patches > 0 else None
