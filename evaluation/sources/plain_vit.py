"""A backbone of this project as a plain timm VisionTransformer, and what makes it anew anywhere.

    settings, weights -> timm's name for an architecture, arguments that JSON can hold, the model

The plain model computes what `trainer.objective.backbone.Backbone.forward` computes: the class
token of the last block after its norm, at any size. Mask token and stochastic depth are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import VisionTransformer

from evaluation.errors import EvaluationError
from evaluation.sources.swiglu import Portable, portable_swiglu
from online_synclr.config.schema import TrainerConfig
from trainer.objective.backbone import build_backbone, timm_arguments

_TRAINING_ONLY = frozenset({"weight_init", "fix_init"})
"""Arguments that a model with weights has no use for; rates of dropout are others."""


@dataclass(frozen=True, eq=False)
class PlainViT:
    """`timm.create_model(architecture, num_classes=0, **arguments)` makes `model` but its weights.

    image_px: side of the square input that its positions are made for.
    """

    model: VisionTransformer
    architecture: str
    arguments: dict[str, Any]
    image_px: int


def plain_vit(trainer: TrainerConfig, weights: Mapping[str, torch.Tensor]) -> PlainViT:
    """The settings' ViT with these weights, in float32, on the CPU, in evaluation mode.

    Args:
        trainer: `backbone`, `backbone_args` and `crops.global_px` are read, and whatever else
            `trainer.objective.backbone` makes a ViT of.
        weights: by timm's names. Their positions decide the size of the input: a run may end at
            another one than it began with.

    Raises:
        EvaluationError: names or shapes are not the settings', or timm cannot make such a model
            from a name and arguments.
    """
    described, arguments = _describe(trainer)
    try:
        model = timm.create_model(described.architecture, num_classes=0, **arguments)
        arguments["img_size"] = _take_size_of(weights, model)
        model.load_state_dict(described.weights(weights))
    except (RuntimeError, TypeError, AssertionError, AttributeError) as error:
        raise EvaluationError(
            f"these weights do not fit trainer.backbone={trainer.backbone} with "
            f"{trainer.backbone_args} ({_first_line(error)}); read them with the version that "
            "wrote them."
        ) from None
    if not isinstance(model, VisionTransformer) or hasattr(model, "dist_token"):
        raise EvaluationError(
            f"trainer.backbone={trainer.backbone}: a plain model of timm pools otherwise than the "
            "training did; only vit_* models with one class token can be loaded."
        )
    return PlainViT(
        model=model.eval(),
        architecture=described.architecture,
        arguments=arguments,
        image_px=arguments["img_size"],
    )


def random_vit(trainer: TrainerConfig, seed: int) -> PlainViT:
    """The settings' ViT with new weights."""
    fresh = trainer.model_copy(update={"pretrained": False})
    torch.default_generator.manual_seed(seed)
    vit = build_backbone(fresh, drop_path=0.0, mask_token=False).vit
    return plain_vit(fresh, vit.state_dict())


def _describe(trainer: TrainerConfig) -> tuple[Portable, dict[str, Any]]:
    arguments = timm_arguments(trainer)
    del arguments["num_classes"]  # configurations of timm and transformers have it elsewhere
    if "mlp_layer" in arguments:
        fresh = trainer.model_copy(update={"pretrained": False})
        reference = build_backbone(fresh, drop_path=0.0, mask_token=False).vit
        described = portable_swiglu(reference, arguments)
    else:
        described = Portable(trainer.backbone, arguments, dict)
    kept = {
        name: value
        for name, value in described.arguments.items()
        if value is not None and name not in _TRAINING_ONLY and not name.endswith("drop_rate")
    }
    wrong = [name for name, value in kept.items() if not _is_json(value)]
    if wrong:
        raise EvaluationError(
            f"trainer.backbone={trainer.backbone}: its {wrong[0]} cannot be written into a file; "
            "such a backbone cannot be loaded without the project."
        )
    return described, kept


def _take_size_of(weights: Mapping[str, torch.Tensor], model: Any) -> int:
    """Give the model as many positions as the weights have; returns its input's side in pixels."""
    side_px = int(model.patch_embed.img_size[0])
    if model.pos_embed is None or "pos_embed" not in weights:
        return side_px
    without_place = model.pos_embed.shape[1] - model.patch_embed.num_patches
    rows = math.isqrt(weights["pos_embed"].shape[1] - without_place)
    if rows**2 != model.patch_embed.num_patches:
        side_px = rows * int(model.patch_embed.patch_size[0])
        model.set_input_size(img_size=(side_px, side_px))
    return side_px


def _is_json(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_json(part) for part in value)
    return isinstance(value, bool | int | float | str)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # load_state_dict says what is wrong from its second line on.
    return lines[min(1, len(lines) - 1)][:200]
