"""What `trainer.distillation.teacher` names: a timm model, an export's folder, or a run.

vit_large_patch14_dinov2.lvd142m    a timm model that has weights (hf-hub:OWNER/NAME, too)
local-dir:DIR                       a folder in timm's format, such as an export
runs/large, runs/large:student      a run's newest checkpoint; its EMA teacher if not said
runs/large/checkpoints/step_N       that checkpoint
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from online_synclr.config import Config, ConfigError, load_config
from trainer import checkpoint_files
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.backbone import build_backbone

KEY = "trainer.distillation.teacher"
LOCAL_DIR = "local-dir:"
NETWORKS = ("teacher", "student")
_PREFIX = "backbone.vit."


@dataclass(frozen=True, eq=False)
class Source:
    """A model without a classifier, on the CPU, and what its input was normalised with.

    `image_px`: side of the square input that it was made for.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_px: int


def open_source(name: str, choose_px: Callable[[int | None], int | None]) -> Source:
    """The model that a setting names.

    Args:
        name: as above.
        choose_px: from the model's patch, none where it has no patches, to the side of its input;
            none: the one it was made for.

    Raises:
        ConfigError: there is none of that name, or its weights cannot be had.
    """
    run, network = _run_of(name)
    if name.startswith(LOCAL_DIR):
        name = LOCAL_DIR + os.path.expanduser(name.removeprefix(LOCAL_DIR))
    return _from_timm(name, choose_px) if run is None else _from_run(run, network, choose_px)


def _run_of(name: str) -> tuple[Path | None, str]:
    """The run's or checkpoint's folder, if the name is one, and which of its networks."""
    path, colon, network = name.rpartition(":")
    if not colon or network not in NETWORKS:
        path, network = name, NETWORKS[0]
    folder = Path(path).expanduser()
    if (folder / "checkpoints").is_dir() or (folder / checkpoint_files.FILE_NAME).is_file():
        return folder, network
    if colon and network in NETWORKS and path != name:
        raise ConfigError(f"{KEY}: there is no run in {path}; name the folder of a run.")
    return None, network


def _from_timm(name: str, choose_px: Callable[[int | None], int | None]) -> Source:
    _check_timm_name(name)
    try:
        with torch.device("meta"):
            outline = timm.create_model(name, pretrained=False, num_classes=0)
        px = choose_px(_patch_px(outline))
        # Only models with positions have such an argument, and timm resamples them to it.
        sized = {} if px is None or not hasattr(outline, "patch_embed") else {"img_size": px}
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **sized)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{KEY}: the weights of {name} cannot be had ({reason[:300]}); download them "
            "where this machine can, or name a folder as local-dir:DIR."
        ) from None
    data = timm.data.resolve_model_data_config(model)
    return Source(model, tuple(data["mean"]), tuple(data["std"]), px or data["input_size"][-1])


def _check_timm_name(name: str) -> None:
    kind, colon, place = name.partition(":")
    if colon and kind == "local-dir":
        if not (Path(place) / "config.json").is_file():
            raise ConfigError(
                f"{KEY}: there is no config.json in {place}; name a folder in timm's format, such "
                "as one that `python -m online_synclr export` writes."
            )
    elif not colon and not timm.is_model(name):
        raise ConfigError(
            f"{KEY}: {name} is neither a run's folder nor a model of timm {timm.__version__}; "
            "timm.list_pretrained() lists its models, and a folder in its format is local-dir:DIR."
        )
    elif not colon and not timm.is_model_pretrained(name):
        raise ConfigError(
            f"{KEY}: timm has no weights for {name}, and a teacher with random ones teaches "
            "nothing; name another one."
        )


def _patch_px(model: nn.Module) -> int | None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return patch[0] if isinstance(patch, tuple) else patch


def _from_run(folder: Path, network: str, choose_px: Callable[[int | None], int | None]) -> Source:
    checkpoint = folder
    if not (folder / checkpoint_files.FILE_NAME).is_file():
        newest = checkpoint_files.latest(folder)
        if newest is None:
            raise ConfigError(f"{KEY}: there is no complete checkpoint in {folder} yet.")
        checkpoint = newest
    config = config_of_checkpoint(checkpoint)
    trainer = config.trainer.model_copy(update={"pretrained": False, "recompute_blocks": False})
    try:
        backbone = build_backbone(trainer, drop_path=0.0, mask_token=False)
        state = checkpoint_files.parse_file(checkpoint / checkpoint_files.FILE_NAME)[network]
        of_vit = {key.removeprefix(_PREFIX): value for key, value in state.items()}
        known = backbone.vit.state_dict()
        backbone.vit.load_state_dict({key: of_vit[key] for key in known})
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{KEY}: {checkpoint} cannot be read ({error}).") from None
    px = choose_px(backbone.patch_px) or trainer.crops.global_px
    return Source(backbone.vit, IMAGENET_MEAN, IMAGENET_STD, px)


def config_of_checkpoint(checkpoint: Path) -> Config:
    """The settings that a checkpoint was written with.

    Raises:
        ConfigError: they are missing, or of another version.
    """
    return load_config(checkpoint / "config.yaml")
