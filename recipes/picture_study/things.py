"""How well backbones tell things apart in fresh real compositions: a second, sharper measure.

The check set says whether what was learnt carries over to another artist, in coarse categories and
502 pictures. This one stays with the artists that were learnt from and asks for the thing itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from online_synclr.config import Config
from recipes.embedded_image_model.compose import Composer, Wish
from recipes.embedded_image_model.concepts import NAMES, OFFERED
from trainer.evaluation.image_folder import LabelledImages
from trainer.evaluation.probe import KnnProbe, backbone_accuracy, raw_pixel_accuracy
from trainer.objective.model import build_model

EACH = 20
SEED = 4321


def compositions(composer: Composer) -> LabelledImages:
    """`EACH` compositions of every offered thing alone, on any background; labelled by thing."""
    images = []
    for _ in range(EACH):
        composed = composer.compose([Wish(concept=concept) for concept in OFFERED]).images_B3SS
        images.append(composed.mul(255).round().to(torch.uint8))
    labels = torch.arange(len(OFFERED)).repeat(EACH)
    return LabelledImages(torch.cat(images), labels, tuple(NAMES[index] for index in OFFERED))


def add(config: Config, result: Path, images: LabelledImages) -> None:
    """Add to a run's result what was measured on these images, unless it is there already.

    `things` is the accuracy before and after training, `raw_pixels` that of the pixels themselves,
    on the check set and on the things.
    """
    outcome = json.loads(result.read_text())
    key = _key(config, images)
    if outcome.get("things_key") == key:
        return
    weights = load_file(result.with_suffix(".safetensors"))
    check_set = KnnProbe(config, torch.device("cpu")).baselines(config.run.seed)["raw_pixels"]
    outcome["things"] = [accuracy(config, None, images), accuracy(config, weights, images)]
    outcome["raw_pixels"] = {"check set": check_set, "things": raw_pixel_accuracy(images, config)}
    outcome["things_key"] = key
    result.write_text(json.dumps(outcome))


def _key(config: Config, images: LabelledImages) -> str:
    """What a measurement depends on beside the weights, in few letters."""
    seen = hashlib.blake2b(images.images_NCHW.numpy().tobytes(), digest_size=8)
    seen.update(images.labels_N.numpy().tobytes())
    seen.update(json.dumps([config.monitor.knn_neighbours, config.trainer.precision]).encode())
    return seen.hexdigest()


def accuracy(
    config: Config, weights: dict[str, torch.Tensor] | None, images: LabelledImages
) -> float:
    """kNN accuracy, leave-one-out, of the backbone with these weights; None: its random ones."""
    device = torch.device("cpu")
    backbone = build_model(config.trainer, run_seed=config.run.seed, device=device).teacher.backbone
    if weights is not None:
        backbone.load_state_dict(weights)
    return backbone_accuracy(backbone, images, config, device)
