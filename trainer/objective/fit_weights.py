"""A ViT's weights made to fit another ViT of the same architecture and another size.

    positions        bicubic, antialiased (timm's resample_abs_pos_embed)
    patches          such that a resized patch has the same embedding (FlexiViT, arXiv 2212.08013;
                     timm's resample_patch_embed)
    normalisation    of the input, where it differs: folded into the patch embedding, exactly
    class positions  where only the source has them: added to the token that they belong to

Registers that the source does not have stay as they are. Whatever else differs is refused.

Shapes: S positions of special tokens (class, registers), T of patches, E embedding dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import VisionTransformer

from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD

POSITIONS, PATCHES, PATCH_BIAS = "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"
CLASS, REGISTERS = "cls_token", "reg_token"
_NAMED = 4
"""Weights that do not fit which the error names; of the others it gives the number."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """Weights by timm's names, and the ViT (on any device, meta will do) that they belong to.

    mean, std: of its input, per channel, of pixels from 0 to 1.
    """

    vit: VisionTransformer
    weights: Mapping[str, torch.Tensor]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights to load. `notes`: what was changed on the way; `left`: names that stay as made."""

    weights: Weights
    notes: tuple[str, ...]
    left: tuple[str, ...]


class MisfitError(ValueError):
    """The networks differ in more than sizes; the message lists in what."""


def fit(source: Source, vit: VisionTransformer) -> Fitted:
    """The source's weights for `vit`, float32, on the CPU.

    Raises:
        MisfitError: a weight exists on one side only, or has another shape.
    """
    weights = {name: value.float().cpu() for name, value in source.weights.items()}
    notes: list[str] = []
    _normalise(weights, source, notes)
    _fit_patches(weights, vit, notes)
    _fit_positions(weights, source.vit, vit, notes)
    wanted = vit.state_dict()
    left = tuple(name for name in (REGISTERS,) if name in wanted and name not in weights)
    _check(weights, {name: value for name, value in wanted.items() if name not in left})
    return Fitted(weights, tuple(notes), left)


def resample_positions(
    positions_1SE: torch.Tensor,
    *,
    num_special: int,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
) -> torch.Tensor:
    """Positions (1, S + T, E) for another grid of patches; those of special tokens stay."""
    resampled: torch.Tensor = resample_abs_pos_embed(
        positions_1SE,
        new_size=list(new_grid),
        old_size=list(old_grid),
        num_prefix_tokens=num_special,
    )
    return resampled


def num_special_positions(vit: VisionTransformer) -> int:
    """S: how many of a ViT's positions are not of patches."""
    return 0 if vit.no_embed_class else int(vit.num_prefix_tokens)


def _normalise(weights: Weights, source: Source, notes: list[str]) -> None:
    """Have it read pixels normalised as the views are.

    (p - m') / s' of its own is x s / s' + (m - m') / s' of x = (p - m) / s.
    """
    kernel = weights.get(PATCHES)
    if kernel is None or (source.mean, source.std) == (IMAGENET_MEAN, IMAGENET_STD):
        return
    mean, std, its_mean, its_std = (
        torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD, source.mean, source.std)
    )
    shift_E = kernel.sum(dim=(2, 3)) @ ((mean - its_mean) / its_std)
    weights[PATCHES] = kernel * (std / its_std)[:, None, None]
    if PATCH_BIAS in weights:
        weights[PATCH_BIAS] = weights[PATCH_BIAS] + shift_E
    elif POSITIONS in weights:
        special = num_special_positions(source.vit)
        moved = weights[POSITIONS].clone()
        moved[:, special:] += shift_E
        weights[POSITIONS] = moved
    notes.append("the input's normalisation folded into the patch embedding")


def _fit_patches(weights: Weights, vit: VisionTransformer, notes: list[str]) -> None:
    kernel, wanted = weights.get(PATCHES), vit.state_dict().get(PATCHES)
    if kernel is None or wanted is None or kernel.shape[2:] == wanted.shape[2:]:
        return
    weights[PATCHES] = resample_patch_embed(kernel, list(wanted.shape[2:]))
    notes.append(f"patches resampled from {kernel.shape[-1]} to {wanted.shape[-1]} px")


def _fit_positions(
    weights: Weights, theirs: VisionTransformer, vit: VisionTransformer, notes: list[str]
) -> None:
    positions = weights.get(POSITIONS)
    if positions is None or vit.pos_embed is None:
        return
    old_grid, new_grid = theirs.patch_embed.grid_size, vit.patch_embed.grid_size
    has, wants = num_special_positions(theirs), num_special_positions(vit)
    if old_grid != new_grid:
        positions = resample_positions(
            positions, num_special=has, old_grid=old_grid, new_grid=new_grid
        )
        notes.append(
            f"positions resampled from {old_grid[0]} x {old_grid[1]} to {new_grid[0]} x "
            f"{new_grid[1]} patches"
        )
    if has and not wants:
        weights[CLASS] = weights[CLASS] + positions[:, :1]
        if REGISTERS in weights:
            weights[REGISTERS] = weights[REGISTERS] + positions[:, 1:has]
        positions = positions[:, has:]
        notes.append("the class token's position added to the token")
    elif wants > has:
        # New ones begin at zero: a token without a position is one whose position is zero.
        missing = positions.new_zeros(1, wants - has, positions.shape[-1])
        positions = torch.cat((positions[:, :has], missing, positions[:, has:]), dim=1)
    weights[POSITIONS] = positions


def _check(weights: Weights, wanted: Mapping[str, torch.Tensor]) -> None:
    misfits = []
    for name in sorted({*weights, *wanted}, key=_block_order):
        has = tuple(weights[name].shape) if name in weights else "missing"
        wants = tuple(wanted[name].shape) if name in wanted else "missing"
        if has != wants:
            misfits.append(f"{name} ({has} there, {wants} here)")
    if misfits:
        more = f" and {len(misfits) - _NAMED} more" if len(misfits) > _NAMED else ""
        raise MisfitError(f"{len(misfits)} weights differ: {', '.join(misfits[:_NAMED])}{more}")


def _block_order(name: str) -> tuple[bool, str]:
    """What is outside the blocks first: it tells most about the architecture."""
    return name.startswith("blocks."), name
