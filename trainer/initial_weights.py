"""What a new run's backbone starts from: `trainer.init_from`.

    timm name                   timm.create_model(..., pretrained=True)
    local-dir:DIR, DIR          the same of an export in a folder
    RUN, RUN/checkpoints/STEP   a checkpoint; the teacher's, with `:student` behind the other's

Trainer 0 reads, and sends what it read to the others, which need neither the files nor the hub. A
resumed run reads nothing: its checkpoint has it all.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import yaml
from pydantic import ValidationError
from timm.models import VisionTransformer, is_model_pretrained

from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import TrainerConfig
from trainer import checkpoint_files
from trainer.collectives import broadcast_bytes
from trainer.distributed import Trainers
from trainer.objective.backbone import build_backbone
from trainer.objective.fit_weights import Fitted, MisfitError, Source, fit
from trainer.objective.model import SynCLRModel
from trainer.objective.shards import part_of

LOCAL = "local-dir:"
VIT = "backbone.vit."
"""Names of the ViT's weights within student and teacher begin so."""


def initialise(
    model: SynCLRModel, config: Config, trainers: Trainers, say: Callable[[str], None]
) -> None:
    """Fill student's and teacher's ViT of a new run; every trainer calls it. `say`: trainer 0's.

    Raises:
        ConfigError: the weights cannot be read, or do not fit; trainer 0 alone finds out.
    """
    name = config.trainer.initial_weights
    if not name:
        return
    data = None
    if trainers.is_first:
        fitted = _read(name, config.trainer)
        say(_report(name, fitted))
        data = _packed(fitted.weights)
        if trainers.size == 1:
            _load(model, fitted.weights)
            return
    _load(model, checkpoint_files.parse(broadcast_bytes(data, trainers.cpu_group)))


def read_source(name: str) -> Source:
    """The weights that a name means.

    Raises:
        ConfigError: there are none, or they are no ViT's.
    """
    place = _checkpoint_of(name)
    if place is None:
        source = _of_timm(name if not _is_export(name) else LOCAL + name)
    else:
        source = _of_checkpoint(place)
    if not isinstance(source.vit, VisionTransformer):
        raise ConfigError(f"trainer.init_from={name} is no ViT; take one of timm's vit_* models.")
    return source


@dataclass(frozen=True)
class _Place:
    """A checkpoint's folder, and which of its networks."""

    path: Path
    network: str


def _read(name: str, trainer: TrainerConfig) -> Fitted:
    source = read_source(name)
    with torch.device("meta"):
        vit = build_backbone(trainer, drop_path=0.0, mask_token=False).vit
    try:
        return fit(source, vit)
    except MisfitError as error:
        raise ConfigError(
            f"trainer.init_from={name} does not fit trainer.backbone={trainer.backbone}: {error}; "
            "set trainer.backbone, backbone_args and blocks to its architecture."
        ) from None


def _checkpoint_of(name: str) -> _Place | None:
    """The checkpoint that a name means; None: it is left to timm."""
    path_text, colon, network = name.rpartition(":")
    if not colon or network not in ("student", "teacher"):
        path_text, network = name, "teacher"
    path = Path(path_text).expanduser()
    if name.startswith(LOCAL) or not path.is_dir() or _is_export(name):
        return None
    if (path / checkpoint_files.FILE_NAME).is_file():
        return _Place(path, network)
    try:
        newest = checkpoint_files.latest(path)
    except OSError as error:
        raise ConfigError(f"trainer.init_from={name} cannot be read ({error.strerror}).") from None
    if newest is None:
        raise ConfigError(
            f"trainer.init_from={name} is a folder without a checkpoint; name a run's folder, one "
            f"of its checkpoints, or with {LOCAL}{path_text} an export."
        )
    return _Place(newest, network)


def _is_export(folder: str) -> bool:
    return os.path.isfile(os.path.join(os.path.expanduser(folder), "config.json"))


def _of_checkpoint(place: _Place) -> Source:
    try:
        state = checkpoint_files.parse_file(place.path / checkpoint_files.FILE_NAME)
        settings = TrainerConfig.model_validate(yaml.safe_load(state["config"])["trainer"])
        with torch.device("meta"):
            vit = build_backbone(settings, drop_path=0.0, mask_token=False).vit
        network = state[place.network]
    except (OSError, RuntimeError, LookupError, ValueError, ValidationError) as error:
        raise ConfigError(
            f"trainer.init_from={place.path} cannot be read ({_first_line(error)}); name another "
            "checkpoint."
        ) from None
    weights = {key[len(VIT) :]: value for key, value in network.items() if key.startswith(VIT)}
    return Source(vit, weights)


def _of_timm(name: str) -> Source:
    if name.startswith(LOCAL):
        folder = os.path.expanduser(name[len(LOCAL) :])
        if not _is_export(folder):
            raise ConfigError(
                f"trainer.init_from={name}: there is no config.json in {folder}; name a folder "
                "that timm or this project's export has written."
            )
        name = LOCAL + folder
    elif ":" not in name and not is_model_pretrained(name):
        raise ConfigError(
            f"trainer.init_from={name} is neither a folder nor a timm model that has weights; "
            "timm.list_models('vit_*', pretrained=True) lists those."
        )
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # whatever the hub, safetensors and timm raise
        raise ConfigError(
            f"trainer.init_from={name}: timm cannot load it ({_first_line(error)})."
        ) from None
    expected = model.pretrained_cfg
    return Source(
        model, model.state_dict(), mean=tuple(expected["mean"]), std=tuple(expected["std"])
    )


@torch.no_grad()
def _load(model: SynCLRModel, weights: dict[str, torch.Tensor]) -> None:
    """Copy in place: parameters may be spread over the trainers, and belong to the optimiser."""
    for network in (model.student, model.teacher):
        own = network.state_dict()
        for name, value in weights.items():
            own[VIT + name].copy_(part_of(value, own[VIT + name]))


def _packed(weights: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def _report(name: str, fitted: Fitted) -> str:
    """One line for people."""
    words = [f"{len(fitted.weights)} of the backbone's weights are from {name}", *fitted.notes]
    if fitted.left:
        words.append(f"new: {', '.join(fitted.left)}")
    return "; ".join(words)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
