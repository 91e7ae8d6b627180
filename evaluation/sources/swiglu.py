"""ViTs with SwiGLU blocks as models that timm makes from a name alone.

Which layer a block's MLP is, timm takes as a class, which no file can hold; but one of its own
architectures has SwiGLU blocks, and every number in it can be given. In it the two products of a
block's gate are one, and every block has LayerScale: where the settings have none its factors are
one, which changes no bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, GluMlp, LayerScale, SwiGLU
from timm.models import VisionTransformer
from torch import nn

from evaluation.errors import EvaluationError

ARCHITECTURE = "vit_giant_patch14_dinov2"
_LAYER_NORM_EPS = 1e-6
_OWN_DEFAULTS = frozenset({"mlp_layer", "act_layer"})

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Portable:
    """An architecture's name, arguments for it, and how weights get its names."""

    architecture: str
    arguments: dict[str, Any]
    weights: Callable[[Weights], dict[str, torch.Tensor]]


def portable_swiglu(reference: VisionTransformer, arguments: Mapping[str, Any]) -> Portable:
    """What makes a model that computes what `reference` does.

    Args:
        reference: with the blocks of the settings; its weights are not read.
        arguments: what it was made with.

    Raises:
        EvaluationError: its blocks are of another kind.
    """
    block = reference.blocks[0]
    if not _is_swiglu(block.mlp) or not _has_usual_norms(reference):
        raise EvaluationError(
            f"blocks with {type(block.mlp).__name__} and {type(block.norm1).__name__} cannot be "
            "written as a model that timm knows by name; only SwiGLU with layer norms can."
        )
    packed = int(block.mlp.fc2.in_features) * 2
    dim = int(reference.embed_dim)
    made = {name: value for name, value in arguments.items() if name not in _OWN_DEFAULTS}
    made |= {
        "patch_size": int(reference.patch_embed.patch_size[0]),
        "embed_dim": dim,
        "depth": len(reference.blocks),
        "num_heads": int(block.attn.num_heads),
        # timm takes int(dim * ratio); half a unit keeps rounding away from the edge.
        "mlp_ratio": (packed + 0.5) / dim,
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "pre_norm": not isinstance(reference.norm_pre, nn.Identity),
        "no_embed_class": bool(reference.no_embed_class),
        "reg_tokens": int(reference.num_reg_tokens),
    }
    if not isinstance(block.ls1, LayerScale):
        made["init_values"] = 1.0
    elif made.get("init_values") is None:
        made["init_values"] = 1e-5  # overwritten by the weights
    return Portable(ARCHITECTURE, made, lambda weights: _packed(weights, dim))


def _is_swiglu(mlp: nn.Module) -> bool:
    split = isinstance(mlp, SwiGLU)
    packed = isinstance(mlp, GluMlp) and not mlp.gate_last
    if not split and not packed:
        return False
    return isinstance(mlp.act, nn.SiLU) and isinstance(mlp.norm, nn.Identity)


def _has_usual_norms(reference: VisionTransformer) -> bool:
    block = reference.blocks[0]
    norms = (block.norm1, block.norm2, reference.norm)
    usual = all(isinstance(one, nn.LayerNorm) and one.eps == _LAYER_NORM_EPS for one in norms)
    return usual and type(block.attn) is Attention and isinstance(block.attn.norm, nn.Identity)


def _packed(weights: Weights, dim: int) -> dict[str, torch.Tensor]:
    """Split gates as one matrix, gate first, and factors of one where there is no LayerScale."""
    packed = {name: value for name, value in weights.items() if ".mlp.fc1_" not in name}
    for name, gate in weights.items():
        if ".mlp.fc1_g." in name:
            value = weights[name.replace(".fc1_g.", ".fc1_x.")]
            packed[name.replace(".fc1_g.", ".fc1.")] = torch.cat((gate, value))
    for name in [name for name in weights if name.endswith(".norm1.weight")]:
        block = name.removesuffix(".norm1.weight")
        for scale in ("ls1", "ls2"):
            packed.setdefault(f"{block}.{scale}.gamma", torch.ones(dim))
    return packed
