"""The two files that `timm.create_model("local-dir:DIR", pretrained=True)` reads.

    model.safetensors   weights by timm's names, float32
    config.json         architecture, arguments, and what the input must be like

transformers' TimmWrapperModel reads the same two. `num_classes` stands outside of the arguments:
transformers gives it itself.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from evaluation.sources.plain_vit import PlainViT
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
CROP_SHARE = 1.0
"""Shorter side resized to the input's, then the centre: as in the paper's fine-grained protocol."""


def write_timm(vit: PlainViT, folder: Path) -> None:
    """Write both files.

    Raises:
        OSError: the disk is full or gone.
    """
    tensors = {name: value.contiguous() for name, value in vit.model.state_dict().items()}
    # transformers refuses files that do not say which framework their tensors are of.
    weights, config = folder / WEIGHTS_NAME, folder / CONFIG_NAME
    save_file(tensors, weights, metadata={"format": "pt"})
    config.write_text(json.dumps(timm_config(vit), indent=2) + "\n", encoding="utf-8")
    # safetensors lets nobody else read its files; an export is for others.
    weights.chmod(config.stat().st_mode)


def timm_config(vit: PlainViT) -> dict[str, Any]:
    """timm's description of a model on the hub (`timm.models.save_for_hf` writes the same keys)."""
    return {
        "architecture": vit.architecture,
        "num_classes": 0,
        "num_features": vit.model.num_features,
        "global_pool": "token",
        "model_args": vit.arguments,
        "pretrained_cfg": {
            "tag": "online_synclr",
            "custom_load": False,
            "input_size": [3, vit.image_px, vit.image_px],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": CROP_SHARE,
            "crop_mode": "center",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
