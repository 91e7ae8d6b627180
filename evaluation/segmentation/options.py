"""Options of `--task segmentation`: which there are, what is refused, what they come to."""

import argparse
from collections.abc import Sequence

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.segmentation.classes import NUM_VALUES
from evaluation.segmentation.prediction import Windows
from evaluation.segmentation.tokens import default_crop_px, patch_px
from evaluation.segmentation.training import Recipe

LEARNING_RATES = {"adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "sgd": (0.01, 0.03, 0.1, 0.3, 1.0)}
WARMUP_SHARE = 1500 / 40_000


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Of the task alone, beside those common to all."""
    group.add_argument(
        "--ignore",
        type=int,
        nargs="*",
        default=[0],
        metavar="LABEL",
        help="labels that neither train nor count (default 0, ADE20k's `other`)",
    )
    group.add_argument(
        "--num-classes",
        type=int,
        metavar="C",
        help="the lowest C labels that are not ignored (default: all found in the label maps, "
        "which are read for it)",
    )
    group.add_argument(
        "--optimizer",
        choices=tuple(LEARNING_RATES),
        default="adamw",
        help="default %(default)s",
    )
    group.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        metavar="LR",
        help="peaks, one head each, trained jointly (default "
        + "; ".join(f"{name}: {_list(rates)}" for name, rates in LEARNING_RATES.items())
        + ")",
    )
    group.add_argument(
        "--weight-decay", type=float, default=1e-4, help="of the heads (default %(default)s)"
    )
    group.add_argument(
        "--steps", type=int, default=40_000, help="of training (default %(default)s)"
    )
    group.add_argument(
        "--warmup-steps", type=int, metavar="STEPS", help="default 3.75 %% of the steps"
    )
    group.add_argument(
        "--batch-crops",
        type=int,
        default=16,
        metavar="N",
        help="a step, of all ranks (default 16)",
    )
    group.add_argument(
        "--predict",
        choices=("slide", "whole"),
        default="slide",
        help="windows of --image-px, or the image at once (default slide)",
    )
    group.add_argument(
        "--stride-px", type=int, metavar="PX", help="of windows (default 2/3 of --image-px)"
    )


def check(options: argparse.Namespace, bench: Bench) -> None:
    """Refuse what cannot be; --data must be given.

    Raises:
        EvaluationError: an option is out of range.
    """
    if options.data is None:
        raise EvaluationError("--task segmentation needs --data; give a folder as ADE20k's is.")
    if options.batch_crops < 1 or options.batch_crops % bench.num_ranks:
        raise EvaluationError(
            f"--batch-crops={options.batch_crops} cannot be shared by {bench.num_ranks} ranks; "
            "give a multiple."
        )
    if min(options.learning_rates or [1.0]) <= 0 or options.weight_decay < 0:
        raise EvaluationError("--learning-rates must be above 0, and --weight-decay at least 0.")
    for name, least in (("steps", 1), ("num_classes", 2), ("stride_px", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise EvaluationError(f"--{name.replace('_', '-')}={value}: give {least} or more.")
    if any(not 0 <= label < NUM_VALUES for label in options.ignore):
        raise EvaluationError(f"--ignore: give labels from 0 to {NUM_VALUES - 1}.")
    if options.warmup_steps is not None and not 0 <= options.warmup_steps < options.steps:
        raise EvaluationError(
            f"--warmup-steps={options.warmup_steps}: give 0 or more, fewer than --steps."
        )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """How the heads are trained."""
    warmup = options.warmup_steps
    return Recipe(
        learning_rates=tuple(options.learning_rates or LEARNING_RATES[options.optimizer]),
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        steps=options.steps,
        warmup_steps=round(options.steps * WARMUP_SHARE) if warmup is None else warmup,
        batch_crops=options.batch_crops,
    )


def crop_px_of(backbone: FrozenBackbone, options: argparse.Namespace) -> int:
    """Side of the training crops.

    Raises:
        EvaluationError: no multiple of the patch, or the backbone has none.
    """
    patch = patch_px(backbone)
    crop_px: int = options.image_px or default_crop_px(backbone)
    if crop_px % patch:
        raise EvaluationError(
            f"--image-px={crop_px} is no multiple of the patch of {backbone.name}; give one of "
            f"{patch}."
        )
    return crop_px


def windows_of(crop_px: int, options: argparse.Namespace) -> Windows:
    """How validation images are cut.

    Raises:
        EvaluationError: the stride leaves gaps.
    """
    if options.predict == "whole":
        return Windows(crop_px, None)
    stride_px = options.stride_px or crop_px * 2 // 3
    if stride_px > crop_px:
        raise EvaluationError(
            f"--stride-px={stride_px} leaves gaps between windows of {crop_px} pixels; give at "
            "most that."
        )
    return Windows(crop_px, stride_px)


def _list(rates: Sequence[float]) -> str:
    return " ".join(f"{rate:g}" for rate in rates)
