"""`--task segmentation`: batch norm and a linear map on frozen patch tokens (docs/segmentation.md).

Several learning rates are trained jointly; the one with the best mIoU on the validation images is
reported, beside all others, and the figure is of those same images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.data_sources.images import digest
from evaluation.errors import EvaluationError
from evaluation.progress import progress
from evaluation.results import Result
from evaluation.segmentation.classes import NUM_VALUES, Classes, counted_classes, found_classes
from evaluation.segmentation.confusion import class_ious, pixel_metrics
from evaluation.segmentation.folder import SegmentationFolder, find_pairs
from evaluation.segmentation.judging import judge
from evaluation.segmentation.prediction import Windows
from evaluation.segmentation.reading import Crops, Wholes, read_crops
from evaluation.segmentation.resuming import KeptHeads
from evaluation.segmentation.tokens import default_crop_px, patch_px
from evaluation.segmentation.training import HeadTraining, Recipe

LEARNING_RATES = {"adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "sgd": (0.01, 0.03, 0.1, 0.3, 1.0)}
WARMUP_SHARE = 1500 / 40_000


class Segmentation:
    """The task."""

    name = "segmentation"
    help = "a linear head on frozen patch tokens, ADE20k-style folders: mIoU"

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """Of this task alone."""
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

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """Train the heads, and judge each on all validation images."""
        _check(options, bench)
        crop_px = _crop_px(backbone, options)
        windows = _windows(crop_px, options)
        folder = find_pairs(Path(options.data).expanduser())
        classes = _classes(folder, options, bench)
        recipe = _recipe(options)
        training = HeadTraining(
            recipe, backbone.feature_dim, len(classes.values), bench.device, bench.seed
        )
        _train(training, backbone, folder, classes, crop_px, bench)
        wholes = Wholes(folder.validation, classes, crop_px)
        matrices_LCC = judge(wholes, backbone, training.norm, training.heads, windows, bench)
        if not matrices_LCC.any():
            raise EvaluationError(
                f"every pixel of the validation label maps of {folder.name} is ignored; give "
                "--ignore other labels."
            )
        metrics, details = _findings(matrices_LCC, recipe, classes)
        bench.say(_choice(details["learning_rate"], recipe))
        details |= {
            "num_training_images": len(folder.training),
            "num_validation_images": len(folder.validation),
            "windows": asdict(windows),
            "recipe": asdict(recipe),
        }
        return [Result(backbone.name, self.name, folder.name, metrics, details)]


TASK = Segmentation()


def _train(
    training: HeadTraining,
    backbone: FrozenBackbone,
    folder: SegmentationFolder,
    classes: Classes,
    crop_px: int,
    bench: Bench,
) -> None:
    """All steps that are left."""
    recipe = training.recipe
    fill = tuple(round(255 * mean) for mean in backbone.mean)
    crops = Crops(folder.training, classes, crop_px, (fill[0], fill[1], fill[2]), bench.seed)
    parts: tuple[Any, ...] = (backbone.identity, folder.identity, classes, recipe, crop_px)
    kept = KeptHeads(digest(*parts, bench.seed, bench.precision, bench.device.type), bench)
    kept.resume(training)
    left = range(training.step, recipe.steps)
    with progress(bench, f"{len(recipe.learning_rates)} heads, steps", len(left)) as done:
        for images, labels in read_crops(crops, left, recipe.batch_crops, bench):
            training.train_step(images, labels, backbone, bench)
            kept.save_if_due(training)
            done(1)


def _findings(
    matrices_LCC: torch.Tensor, recipe: Recipe, classes: Classes
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the best learning rate, and everything about all of them."""
    every = [pixel_metrics(matrix_CC) for matrix_CC in matrices_LCC]
    best = max(range(len(every)), key=lambda head: every[head]["miou"])
    ious = class_ious(matrices_LCC[best])
    details = {
        "chosen_on": "mIoU of the validation images, which the figures are of as well",
        "learning_rate": recipe.learning_rates[best],
        "by_learning_rate": [
            {"learning_rate": rate, **metrics}
            for rate, metrics in zip(recipe.learning_rates, every, strict=True)
        ],
        "num_classes": len(classes.values),
        "class_iou": dict(zip(map(str, classes.values), ious, strict=True)),
    }
    return every[best], details


def _choice(best: float, recipe: Recipe) -> str:
    """Which learning rate is reported, and whether a better one may lie beyond those tried."""
    tried = sorted(recipe.learning_rates)
    text = (
        f"learning rate {best:g} is reported, the best of {len(tried)} by mIoU on the validation "
        "images"
    )
    if len(tried) > 2 and best in (tried[0], tried[-1]):
        side = "smallest" if best == tried[0] else "largest"
        text += f"; it is the {side} tried, so try more with --learning-rates"
    return text


def _windows(crop_px: int, options: argparse.Namespace) -> Windows:
    if options.predict == "whole":
        return Windows(crop_px, None)
    stride_px = options.stride_px or crop_px * 2 // 3
    if stride_px > crop_px:
        raise EvaluationError(
            f"--stride-px={stride_px} leaves gaps between windows of {crop_px} pixels; give at "
            "most that."
        )
    return Windows(crop_px, stride_px)


def _recipe(options: argparse.Namespace) -> Recipe:
    warmup = options.warmup_steps
    return Recipe(
        learning_rates=tuple(options.learning_rates or LEARNING_RATES[options.optimizer]),
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        steps=options.steps,
        warmup_steps=round(options.steps * WARMUP_SHARE) if warmup is None else warmup,
        batch_crops=options.batch_crops,
    )


def _classes(folder: SegmentationFolder, options: argparse.Namespace, bench: Bench) -> Classes:
    if options.num_classes is not None:
        return counted_classes(options.num_classes, options.ignore)
    maps = [pair.labels for pair in folder.training + folder.validation]
    return found_classes(maps, options.ignore, bench)


def _crop_px(backbone: FrozenBackbone, options: argparse.Namespace) -> int:
    patch = patch_px(backbone)
    crop_px: int = options.image_px or default_crop_px(backbone)
    if crop_px % patch:
        raise EvaluationError(
            f"--image-px={crop_px} is no multiple of the patch of {backbone.name}; give one of "
            f"{patch}."
        )
    return crop_px


def _check(options: argparse.Namespace, bench: Bench) -> None:
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


def _list(rates: Sequence[float]) -> str:
    return " ".join(f"{rate:g}" for rate in rates)
