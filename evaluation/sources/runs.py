"""Backbones of this project's runs: student or teacher of a checkpoint, or with random weights."""

from pathlib import Path

from evaluation.backbone import FrozenBackbone
from evaluation.sources.checkpoint import Network, find_checkpoint, read_checkpoint
from evaluation.sources.frozen import freeze, resize_input
from evaluation.sources.plain_vit import PlainViT, random_vit
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD


def load_run(
    folder: Path, network: Network, *, name: str, image_px: int | None = None
) -> FrozenBackbone:
    """A network's backbone of a run's newest checkpoint, or of a checkpoint.

    Raises:
        EvaluationError: there is none, or it cannot be read.
    """
    checkpoint = read_checkpoint(find_checkpoint(folder))
    origin = f"{network} of {checkpoint.folder}, after {checkpoint.step} steps"
    return frozen_vit(checkpoint.vit(network), name=name, origin=origin, image_px=image_px)


def load_random_run(
    folder: Path, seed: int, *, name: str, image_px: int | None = None
) -> FrozenBackbone:
    """The backbone of a run's settings before any training.

    Raises:
        EvaluationError: there is no checkpoint to take the settings from.
    """
    checkpoint = read_checkpoint(find_checkpoint(folder))
    vit = random_vit(checkpoint.config.trainer, seed)
    origin = f"random weights (seed {seed}) of the backbone of {checkpoint.folder}"
    return frozen_vit(vit, name=name, origin=origin, image_px=image_px)


def frozen_vit(
    vit: PlainViT, *, name: str, origin: str, image_px: int | None = None
) -> FrozenBackbone:
    """A backbone whose input is normalised as the trainer's views are."""
    size_px = vit.image_px
    if image_px is not None and image_px != size_px:
        resize_input(vit.model, name, image_px)
        size_px = image_px
    return freeze(
        vit.model, name=name, origin=origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, image_px=size_px
    )
