"""Backbones that timm makes: by name with its weights or random ones, or from an export folder."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError
from evaluation.sources.frozen import freeze, resize_input

CONFIG_NAME = "config.json"
HUB = "hf-hub:"


def is_export(folder: Path) -> bool:
    """Whether a folder is what timm loads as `local-dir:`, as exports are."""
    return (folder / CONFIG_NAME).is_file()


def is_timm_name(name: str) -> bool:
    """Whether timm has a model of that name, with or without a tag behind a dot."""
    return name.startswith(HUB) or timm.is_model(name.partition(".")[0])


def names_like(name: str) -> list[str]:
    """timm's names that look like it, for a message."""
    models = timm.list_models(name.partition(".")[0] + "*") or timm.list_models()
    return difflib.get_close_matches(name.partition(".")[0], models, n=2, cutoff=0.5)


def load_timm(name: str, *, image_px: int | None = None) -> FrozenBackbone:
    """A timm model with the weights that timm has for that name.

    Mean, deviation, input size and pooling are those of its weights.

    Raises:
        EvaluationError: there are no weights, or they cannot be fetched.
    """
    if not name.startswith(HUB):
        _check_weights(name)
    model = _create(name, pretrained=True, shown=name)
    return _frozen(model, name=name, origin=_origin_of(model, name), image_px=image_px)


def load_folder(folder: Path, *, name: str, image_px: int | None = None) -> FrozenBackbone:
    """An export, of this project or of anyone.

    Raises:
        EvaluationError: it cannot be read.
    """
    model = _create(f"local-dir:{folder}", pretrained=True, shown=name)
    return _frozen(model, name=name, origin=f"the export in {folder}", image_px=image_px)


def load_random(
    source: str, seed: int, *, name: str, image_px: int | None = None
) -> FrozenBackbone:
    """A timm model, or one like an export (`local-dir:DIR`), with new weights.

    Raises:
        EvaluationError: it cannot be made.
    """
    torch.default_generator.manual_seed(seed)
    model = _create(source, pretrained=False, shown=name)
    origin = f"random weights (seed {seed}) of {source}"
    return _frozen(model, name=name, origin=origin, image_px=image_px)


def _frozen(model: nn.Module, *, name: str, origin: str, image_px: int | None) -> FrozenBackbone:
    data: dict[str, Any] = resolve_model_data_config(model)
    _, height, width = data["input_size"]
    if image_px is not None and (image_px, image_px) != (height, width):
        resize_input(model, name, image_px)
        height = width = image_px
    if height != width:
        raise EvaluationError(
            f"{name} takes images of {height} x {width} pixels; give --image-px for a square."
        )
    return freeze(
        model, name=name, origin=origin, mean=data["mean"], std=data["std"], image_px=height
    )


def _create(source: str, *, pretrained: bool, shown: str) -> nn.Module:
    """Without a classifier, and of any input size where timm offers it."""
    for more in ({"dynamic_img_size": True}, {}):
        try:
            model: nn.Module = timm.create_model(
                source, pretrained=pretrained, num_classes=0, **more
            )
        except TypeError as error:
            if "dynamic_img_size" in str(error):
                continue
            raise _cannot_be_made(shown, error) from None
        except Exception as error:  # whatever hub, files and models raise
            raise _cannot_be_made(shown, error) from None
        return model
    raise AssertionError("a model was made, or an error raised")


def _check_weights(name: str) -> None:
    # timm would leave some models without a word with random weights.
    try:
        settings = get_pretrained_cfg(name)
        # Old names have no settings of their own; timm leads them on to the new ones.
        has_weights = settings is None or bool(settings.has_weights)
    except RuntimeError:  # a tag that it does not know
        has_weights = False
    if not has_weights:
        architecture = name.partition(".")[0]
        others = timm.list_pretrained(f"{architecture}.*")[:4]
        mend = f"timm has {', '.join(others)}" if others else f"use random:{architecture}"
        raise EvaluationError(f"timm has no weights of the name {name}; {mend}.")


def _cannot_be_made(shown: str, error: Exception) -> EvaluationError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, OSError) or shown.startswith(HUB) or timm.is_model(shown.split(".")[0]):
        mend = "weights that are not in the hub's cache need a connection"
    else:
        mend = "name a model that this version of timm can make"
    return EvaluationError(f"{shown} cannot be loaded ({reason}); {mend}.")


def _origin_of(model: nn.Module, name: str) -> str:
    settings: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    place = settings.get("hf_hub_id") or settings.get("url") or settings.get("file")
    tag = settings.get("tag")
    weights = f"timm's weights of {name}" + (f" ({tag})" if tag and tag not in name else "")
    return f"{weights}, from {place}" if isinstance(place, str) else weights
