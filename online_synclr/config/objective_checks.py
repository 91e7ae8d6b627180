"""Settings of the objective that cannot work, found without importing torch or timm."""

import os
import re

from online_synclr.config.errors import ConfigError
from online_synclr.config.schema import Config, TrainerConfig

ARGUMENTS_OF_BLOCKS = {
    "mlp": "act_layer",
    "layer_scale": "init_values",
    "registers": "reg_tokens",
}
"""Of `timm.create_model`, by the key of `trainer.blocks` that sets them."""

LARGEST_HUE = 0.5
"""Half a turn each way is every hue there is."""


def check_objective(config: Config) -> None:
    """Refuse settings under which a loss would be undefined or a crop could not be made.

    The patch is read from `backbone_args.patch_size` or the backbone's name; where neither tells
    it, `trainer.objective.backbone` checks it when the model is built.

    Raises:
        ConfigError: one sentence that names the key and the mend.
    """
    trainer = config.trainer
    _check_positives(config)
    _check_patches(trainer)
    _check_crops(trainer)
    _check_augment(trainer)
    _check_masks(trainer)
    _check_drop_path(trainer)
    _check_parallel(trainer)
    _check_blocks(trainer)
    _check_initial_weights(trainer)
    _check_distillation(trainer)


def _check_positives(config: Config) -> None:
    """A global crop's own key is no candidate of it: something else must be a positive.

    Local crops always have one, the global crop of their own image.
    """
    trainer = config.trainer
    crops = trainer.crops.globals_per_image
    positives = trainer.contrastive.positives
    if trainer.contrastive.global_weight == 0:
        return
    if positives == "image":
        if crops < 2:
            raise ConfigError(
                "trainer.contrastive.positives=image leaves a global crop without a positive when "
                f"trainer.crops.globals_per_image={crops}; set it to 2 or more."
            )
    elif config.images_per_group * crops < 2:
        raise ConfigError(
            f"trainer.contrastive.positives={positives} leaves a global crop without a positive "
            "when a group gives one global crop; raise images.per_caption, "
            "trainer.images_per_group or trainer.crops.globals_per_image to 2."
        )


def _check_patches(trainer: TrainerConfig) -> None:
    patch = _patch_px(trainer)
    if patch is None:
        return
    sides = {"global_px": trainer.crops.global_px}
    if trainer.crops.locals_per_image:
        sides["local_px"] = trainer.crops.local_px
    for key, side in sides.items():
        if side % patch:
            raise ConfigError(
                f"trainer.crops.{key}={side} is not a multiple of the backbone's patch of {patch}; "
                f"set it to {max(1, round(side / patch)) * patch}."
            )


def _patch_px(trainer: TrainerConfig) -> int | None:
    given = trainer.backbone_args.get("patch_size")
    if isinstance(given, int) and given > 0:
        return given
    named = re.search(r"_patch(\d+)", trainer.backbone)
    return int(named.group(1)) if named else None


def _check_crops(trainer: TrainerConfig) -> None:
    scales = {
        "global_scale": trainer.crops.global_scale,
        "local_scale": trainer.crops.local_scale,
    }
    for key, (low, high) in scales.items():
        if not 0.0 < low <= high:
            raise ConfigError(
                f"trainer.crops.{key}=[{low}, {high}] is no range of areas; "
                "give two rising shares above 0."
            )


def _check_augment(trainer: TrainerConfig) -> None:
    augment = trainer.augment
    low, high = augment.blur_sigma
    if low > high:
        raise ConfigError(
            f"trainer.augment.blur_sigma=[{low}, {high}] is no range; give the smaller width first."
        )
    if augment.jitter_strength[3] > LARGEST_HUE:
        raise ConfigError(
            f"trainer.augment.jitter_strength has a hue of {augment.jitter_strength[3]}; "
            f"set it to at most {LARGEST_HUE}."
        )


def _check_masks(trainer: TrainerConfig) -> None:
    mim = trainer.mim
    if mim.weight == 0:
        return
    for key, share in {"image_share": mim.image_share, "token_share": mim.token_share}.items():
        if share == 0:
            raise ConfigError(
                f"trainer.mim.{key}=0 masks nothing for the masked-image loss; "
                "raise it or set trainer.mim.weight to 0."
            )


def _check_drop_path(trainer: TrainerConfig) -> None:
    if trainer.drop_path >= 1.0:
        raise ConfigError(
            f"trainer.drop_path={trainer.drop_path} drops every block; set it below 1."
        )


def _check_parallel(trainer: TrainerConfig) -> None:
    if trainer.parallel == "fsdp" and trainer.optimizer.name == "muon":
        raise ConfigError(
            "trainer.optimizer.name=muon needs whole matrices, of which trainer.parallel=fsdp "
            "leaves each trainer a part; set trainer.parallel=ddp or trainer.optimizer.name=adamw."
        )


def _check_blocks(trainer: TrainerConfig) -> None:
    for key, argument in ARGUMENTS_OF_BLOCKS.items():
        if getattr(trainer.blocks, key) is not None and argument in trainer.backbone_args:
            raise ConfigError(
                f"trainer.blocks.{key} and trainer.backbone_args.{argument} say the same; leave "
                "one of them out."
            )


def _check_initial_weights(trainer: TrainerConfig) -> None:
    if trainer.pretrained and trainer.init_from:
        raise ConfigError(
            f"trainer.pretrained is short for trainer.init_from={trainer.backbone}, but "
            f"trainer.init_from={trainer.init_from}; leave one of them out."
        )


def _check_distillation(trainer: TrainerConfig) -> None:
    distillation = trainer.distillation
    if not distillation.teacher:
        return
    if distillation.class_weight == distillation.patch_weight == 0:
        raise ConfigError(
            "trainer.distillation.teacher teaches nothing with class_weight and patch_weight 0; "
            "raise one, or leave the teacher out."
        )
    folder = distillation.teacher.removeprefix("local-dir:")
    is_path = folder != distillation.teacher or folder.startswith((".", "/"))
    folder = folder.removesuffix(":student").removesuffix(":teacher")
    if is_path and not os.path.isdir(os.path.expanduser(folder)):
        raise ConfigError(
            f"trainer.distillation.teacher: there is no folder {folder}; name a run, an export as "
            "local-dir:DIR, or a timm model."
        )
    if trainer.shuffle_positives:
        raise ConfigError(
            "trainer.shuffle_positives is a control experiment in which nothing may be learned, "
            "but trainer.distillation.teacher teaches all the same; leave one of them out."
        )
