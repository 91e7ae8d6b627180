"""What a backbone's name on the command line means."""

from pathlib import Path

import torch

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError
from evaluation.sources import released, runs, timm_models
from evaluation.sources.checkpoint import NETWORKS, Network, is_checkpoint, is_run

_RANDOM = "random:"
_SEED = "@"
_RELEASED = "synclr:"
_LOCAL = "local-dir:"


def load_backbone(name: str, *, image_px: int | None = None) -> FrozenBackbone:
    """The backbone that a command line names, on the CPU.

        runs/demo, runs/demo:student     a run's newest checkpoint; the teacher if not said
        runs/demo/checkpoints/step_N     that checkpoint's (:student, too)
        DIR                              an export
        NAME, hf-hub:ID                  a timm model with its weights
        random:NAME, random:NAME@SEED    a timm model with random weights; seed 0 if not said
        random:RUN, random:DIR           a run's or an export's backbone, with random weights
        synclr:FILE                      the authors' released weights

    Args:
        image_px: side of its input; none: what it was trained with.

    torch's own random generators are left as they were.

    Raises:
        EvaluationError: there is none of that name, or its weights cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        return _load(name, image_px)


def _load(name: str, image_px: int | None) -> FrozenBackbone:
    if name.startswith(_RANDOM):
        return _random(name, image_px)
    if name.startswith(_RELEASED):
        file = Path(name.removeprefix(_RELEASED)).expanduser()
        return released.load_released(file, name=name, image_px=image_px)
    folder, network = split_network(name.removeprefix(_LOCAL))
    if folder.is_dir():
        return _folder(folder, network, name, image_px)
    if network is None and timm_models.is_timm_name(name):
        return timm_models.load_timm(name, image_px=image_px)
    raise _unknown(name)


def split_network(name: str) -> tuple[Path, Network | None]:
    """A run's or another folder, and the network that stands behind it, if any is said."""
    for network in NETWORKS:
        if name.endswith(f":{network}"):
            return Path(name.removesuffix(f":{network}")).expanduser(), network
    return Path(name).expanduser(), None


def _folder(
    folder: Path, network: Network | None, name: str, image_px: int | None
) -> FrozenBackbone:
    if is_checkpoint(folder) or is_run(folder):
        return runs.load_run(folder, network or "teacher", name=name, image_px=image_px)
    _check_export(folder)
    if network is not None:
        raise EvaluationError(f"{folder} is an export of one network; leave :{network} out.")
    return timm_models.load_folder(folder, name=name, image_px=image_px)


def _random(name: str, image_px: int | None) -> FrozenBackbone:
    source, _, seed_text = name.removeprefix(_RANDOM).partition(_SEED)
    if seed_text and not seed_text.isdecimal():
        raise EvaluationError(f"{name}: {seed_text} is no seed; write it as {_RANDOM}NAME@7.")
    seed = int(seed_text or 0)
    folder = Path(source.removeprefix(_LOCAL)).expanduser()
    if folder.is_dir():
        if is_checkpoint(folder) or is_run(folder):
            return runs.load_random_run(folder, seed, name=name, image_px=image_px)
        _check_export(folder)
        source = f"{_LOCAL}{folder}"
    elif not timm_models.is_timm_name(source):
        raise _unknown(source)
    return timm_models.load_random(source, seed, name=name, image_px=image_px)


def _check_export(folder: Path) -> None:
    if not timm_models.is_export(folder):
        raise EvaluationError(
            f"{folder} is no run (it has no checkpoints), no checkpoint and no export (it has no "
            f"{timm_models.CONFIG_NAME}); name another folder."
        )


def _unknown(name: str) -> EvaluationError:
    if "/" in name or ":" in name:
        return EvaluationError(
            f"there is no folder {split_network(name.removeprefix(_LOCAL))[0]}; name a run, a "
            "checkpoint, an export or a timm model."
        )
    like = timm_models.names_like(name)
    mend = f"did you mean {' or '.join(like)}?" if like else "timm.list_models() lists its names."
    return EvaluationError(
        f"{name} is neither a folder here nor a model of this version of timm; {mend}"
    )
