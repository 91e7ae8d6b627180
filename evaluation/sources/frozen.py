"""From a network with its weights to a `FrozenBackbone`."""

from collections.abc import Sequence

from torch import nn

from evaluation.backbone import FrozenBackbone, patch_side_px
from evaluation.errors import EvaluationError
from evaluation.sources.identity import identity_of


def freeze(
    model: nn.Module,
    *,
    name: str,
    origin: str,
    mean: Sequence[float],
    std: Sequence[float],
    image_px: int,
) -> FrozenBackbone:
    """The network in evaluation mode, its weights without gradient."""
    mean_3, std_3 = _of_three(name, mean), _of_three(name, std)
    model.eval().requires_grad_(False)
    return FrozenBackbone(
        name=name,
        origin=origin,
        model=model,
        mean=mean_3,
        std=std_3,
        image_px=image_px,
        identity=identity_of(model, mean=mean_3, std=std_3, image_px=image_px),
    )


def resize_input(model: nn.Module, name: str, image_px: int) -> None:
    """Make a timm network take squares of another size, its positions resampled, in place.

    Networks without positions are left as they are.

    Raises:
        EvaluationError: it cannot take that size.
    """
    if image_px < 1:
        raise EvaluationError(f"--image-px={image_px}: give 1 or more.")
    patch_px = patch_side_px(model)
    if patch_px is not None and image_px % patch_px:
        raise EvaluationError(
            f"--image-px={image_px} is not a multiple of {name}'s patch; give a multiple of "
            f"{patch_px}."
        )
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(image_px, image_px))  # type: ignore[operator]
    elif _is_fixed(model, image_px):
        raise EvaluationError(
            f"{name} takes images of one size only; leave --image-px={image_px} out."
        )


def _is_fixed(model: nn.Module, image_px: int) -> bool:
    settings = getattr(model, "pretrained_cfg", {})
    own = tuple(settings.get("input_size", ()))[1:]
    return bool(settings.get("fixed_input_size")) and own != (image_px, image_px)


def _of_three(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise EvaluationError(
            f"{name} takes images of {len(values)} channels; name a backbone of colour images."
        )
    red, green, blue = (float(value) for value in values)
    return red, green, blue
