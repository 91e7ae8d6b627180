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
from evaluation.segmentation.classes import Classes, counted_classes, found_classes
from evaluation.segmentation.confusion import class_ious, pixel_metrics
from evaluation.segmentation.folder import SegmentationFolder, find_pairs
from evaluation.segmentation.judging import judge
from evaluation.segmentation.options import add_options, check, crop_px_of, recipe_of, windows_of
from evaluation.segmentation.reading import Crops, Wholes, read_crops
from evaluation.segmentation.resuming import VERSION, KeptHeads
from evaluation.segmentation.training import HeadTraining, Recipe


class Segmentation:
    """The task."""

    name = "segmentation"
    help = "a linear head on frozen patch tokens, ADE20k-style folders: mIoU"

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """Of this task alone."""
        add_options(group)

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """Train the heads, and judge each on all validation images."""
        check(options, bench)
        crop_px = crop_px_of(backbone, options)
        windows = windows_of(crop_px, options)
        folder = find_pairs(Path(options.data).expanduser())
        classes = _classes(folder, options, bench)
        recipe = recipe_of(options)
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
    judged = (backbone.identity, folder.identity, classes)
    how = (VERSION, recipe, crop_px, bench.seed, bench.precision, bench.device.type)
    kept = KeptHeads(digest(*judged, *how), bench)
    kept.resume(training)
    left = range(training.step, recipe.steps)
    with progress(bench, f"steps of {len(recipe.learning_rates)} heads", len(left)) as done:
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


def _classes(folder: SegmentationFolder, options: argparse.Namespace, bench: Bench) -> Classes:
    if options.num_classes is not None:
        return counted_classes(options.num_classes, options.ignore)
    maps = [pair.labels for pair in folder.training + folder.validation]
    return found_classes(maps, options.ignore, bench)
