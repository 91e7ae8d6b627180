"""The authors' released SynCLR weights (ViT-B/16, ViT-L/14), with their names turned into timm's.

From google-research/syn-rep-learn, folder SynCLR: `eval/main_downstream_linear.py` takes the state
from "state_dict" or "model" and strips "module.visual." or "visual." from its names, whatever
begins with "head" being left out; `eval/models_vit.py` is the network, a subclass of timm's with a
class token, layer norms of epsilon 1e-6 and no more than a plain ViT has; the normalisation there
and in `eval/util/datasets.py` is CLIP's. `train_pytorch/models/MaskTransformer.py` adds a mask
token, which no evaluation reads.

Nobody has compared the outcome with the authors' own for the real files yet: `origin` says so.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import timm
import torch
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError
from evaluation.sources.frozen import freeze, resize_input

UNVERIFIED: Final = (
    "unverified: their features were not compared with those of the authors' own code"
)
_STATES: Final = ("state_dict", "model")
_PREFIXES: Final = ("module.visual.", "visual.", "")
_LEFT_OUT: Final = re.compile(r"head\.|head_dist\.|mask_token$")
_HEAD_DIM: Final = 64
"""Of every published ViT's attention: the number of heads stands in no weight."""

Weights = dict[str, torch.Tensor]


def load_released(file: Path, *, name: str, image_px: int | None = None) -> FrozenBackbone:
    """The network of a released file; its size is told by its weights.

    Raises:
        EvaluationError: the file cannot be read, or holds no such network.
    """
    weights = _timm_weights(_read(file), file)
    arguments, size_px = _arguments(weights, file)
    model = timm.create_model(
        "vit_base_patch16_224",
        num_classes=0,
        global_pool="token",
        dynamic_img_size=True,
        img_size=size_px,
        **arguments,
    )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError(f"{file} is not the network that was released ({reason}).") from None
    if image_px is not None and image_px != size_px:
        resize_input(model, name, image_px)
        size_px = image_px
    origin = f"the authors' released weights in {file}; {UNVERIFIED}"
    return freeze(
        model,
        name=name,
        origin=origin,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
        image_px=size_px,
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EvaluationError(
            f"synclr:{file}: there is no such file; the authors' repository links to theirs."
        ) from None
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"synclr:{file} cannot be read as weights alone ({reason}); nothing else in a file is "
            "ever loaded."
        ) from None
    for key in _STATES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise EvaluationError(f"synclr:{file} holds no weights by name.")
    return content


def _timm_weights(state: Mapping[str, Any], file: Path) -> Weights:
    prefix = next((one for one in _PREFIXES if f"{one}cls_token" in state), None)
    if prefix is None:
        found = ", ".join(sorted(map(str, state))[:3]) or "nothing"
        raise EvaluationError(
            f"synclr:{file} has none of the names that the authors published "
            f"(module.visual.cls_token and so on), but {found}."
        )
    named = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    return {
        name: value.float()
        for name, value in named.items()
        if isinstance(value, torch.Tensor) and not _LEFT_OUT.match(name)
    }


def _arguments(weights: Weights, file: Path) -> tuple[dict[str, int], int]:
    """Arguments of timm's ViT, and the side of its input."""
    try:
        dim, _, patch_px, _ = weights["patch_embed.proj.weight"].shape
        num_patches = weights["pos_embed"].shape[1] - 1
    except (KeyError, ValueError, IndexError):
        raise EvaluationError(
            f"synclr:{file} has no patch_embed.proj.weight and pos_embed of a ViT."
        ) from None
    rows = round(num_patches**0.5)
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    if rows * rows != num_patches or dim % _HEAD_DIM or not blocks:
        raise EvaluationError(f"synclr:{file} is not a ViT of the sizes that were released.")
    arguments = {
        "patch_size": patch_px,
        "embed_dim": dim,
        "depth": len(blocks),
        "num_heads": dim // _HEAD_DIM,
    }
    return arguments, rows * patch_px
