"""Blocks beyond the paper (`trainer.blocks`), as arguments of timm's VisionTransformer.

    mlp: swiglu     SwiGLU (Shazeer, arXiv 2002.05202): (silu(x W) * x V) U instead of gelu(x W) U
    layer_scale     LayerScale (Touvron et al., arXiv 2103.17239): gains on every branch
    registers       register tokens (Darcet et al., arXiv 2309.16588)

timm keeps W and V of a SwiGLU in one matrix. With three matrices instead of two a hidden width of
two thirds is as many parameters; like DINOv2's it is rounded up to a multiple of 8.

Registers go behind the class token, and with them neither has positions, as in timm's own models
with registers: a token that is always in the same place learns it by itself.
"""

import math
from typing import Any

import timm
import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models import VisionTransformer
from torch import nn

from online_synclr.config.schema import TrainerConfig

WIDTH_MULTIPLE = 8
WITH_SWIGLU = "vit_giant_patch14_dinov2"
"""A model of timm's with plain attention and packed SwiGLUs."""

_CLASSES = ("mlp_layer", "act_layer")


def block_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """What `trainer.blocks` adds to the arguments of timm's model; nothing where nothing is set.

    Raises:
        ValueError: the model's blocks have no MLP that a SwiGLU could stand in for.
    """
    blocks = trainer.blocks
    arguments: dict[str, Any] = {}
    if blocks.mlp == "swiglu":
        embed_dim, hidden = _plain_widths(trainer)
        arguments |= {
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "mlp_ratio": ratio_of(2 * gated_width(hidden), embed_dim),
        }
    if blocks.layer_scale is not None:
        arguments["init_values"] = blocks.layer_scale
    if blocks.registers is not None:
        arguments |= {"reg_tokens": blocks.registers, "no_embed_class": True}
    return arguments


def portable_model(trainer: TrainerConfig) -> tuple[str, dict[str, Any]]:
    """A timm model and arguments, plain JSON values all, that make the same ViT.

    A SwiGLU is a class among timm's arguments. Where one is wanted the architecture is that of a
    model of timm's which has it, with every argument that differs.

    Raises:
        ValueError: timm has no name for this ViT.
    """
    wanted = {**trainer.backbone_args, **block_arguments(trainer)}
    if trainer.blocks.mlp is None:
        return trainer.backbone, wanted
    with torch.device("meta"):
        vit = timm.create_model(trainer.backbone, **wanted, num_classes=0)
        arguments = {
            **{key: value for key, value in wanted.items() if key not in _CLASSES},
            "patch_size": int(vit.patch_embed.patch_size[0]),
            "embed_dim": int(vit.embed_dim),
            "depth": len(vit.blocks),
            "num_heads": int(vit.blocks[0].attn.num_heads),
            # Not None, which timm takes for an argument that is not given.
            "init_values": trainer.blocks.layer_scale
            or trainer.backbone_args.get("init_values", 0.0),
        }
        twin = timm.create_model(WITH_SWIGLU, **arguments, num_classes=0)
    if str(twin) != str(vit) or twin.no_embed_class != vit.no_embed_class:
        raise ValueError(
            f"timm has no architecture for {trainer.backbone} with trainer.blocks.mlp=swiglu: it "
            f"differs from {WITH_SWIGLU} in more than sizes"
        )
    return WITH_SWIGLU, arguments


def gated_width(hidden: int) -> int:
    """Hidden width of the SwiGLU with as many parameters as an MLP of width `hidden`."""
    return math.ceil(2 * hidden / 3 / WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def ratio_of(width: int, embed_dim: int) -> float:
    """The ratio that timm, which takes int(embed_dim * ratio), makes exactly `width` of."""
    ratio = width / embed_dim
    return ratio if int(embed_dim * ratio) == width else math.nextafter(ratio, math.inf)


def _plain_widths(trainer: TrainerConfig) -> tuple[int, int]:
    """Embedding and hidden width of the model without `trainer.blocks`."""
    with torch.device("meta"):
        try:
            vit = timm.create_model(trainer.backbone, **{**trainer.backbone_args, "depth": 1})
        except (TypeError, AssertionError) as error:
            raise ValueError(
                f"trainer.backbone: {trainer.backbone} cannot be made with trainer.backbone_args="
                f"{trainer.backbone_args} ({error}); take one of timm's vit_* models or change them"
            ) from error
    mlp: Any = vit.blocks[0].mlp if isinstance(vit, VisionTransformer) else None
    if type(mlp) is not Mlp:
        raise ValueError(
            f"trainer.blocks.mlp=swiglu replaces the plain MLP of a ViT, which {trainer.backbone} "
            "does not have; leave it out, or take another of timm's vit_* models"
        )
    return int(vit.embed_dim), int(mlp.fc1.out_features)
