"""The segmentation task as the command line runs it, on a small made-up folder."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.results import Result
from evaluation.segmentation import resuming
from evaluation.segmentation.training import HeadTraining
from evaluation.tasks.segmentation import TASK
from tests.segmentation_files import CROP_PX, tiny_backbone, write_segmentation

SMALL = ["--steps", "30", "--batch-crops", "4", "--learning-rates", "1e-5", "1e-2", "3e-2"]
BENCH = Bench(torch.device("cpu"))


def options(data: Path | str, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--image-px", type=int)
    TASK.add_options(parser.add_argument_group())
    parsed = parser.parse_args(["--image-px", str(CROP_PX), *SMALL, *words])
    parsed.data = str(data)
    return parsed


def run(data: Path, *words: str, bench: Bench = BENCH) -> Result:
    (result,) = TASK.run(tiny_backbone(), options(data, *words), bench)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmentation(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return run(folder)


def test_colours_are_told_apart(result: Result) -> None:
    assert (result.backbone, result.task, result.data) == ("tiny", "segmentation", "blocks")
    assert list(result.metrics) == ["miou", "pixel_accuracy", "mean_class_accuracy"]
    # Three classes by chance: an mIoU of 0.2.
    assert result.metrics["miou"] > 0.6


def test_the_best_learning_rate_is_reported_with_all(result: Result) -> None:
    rates = result.details["by_learning_rate"]
    assert [row["learning_rate"] for row in rates] == [1e-5, 1e-2, 3e-2]
    assert result.metrics["miou"] == max(row["miou"] for row in rates)
    assert rates[0]["miou"] < result.metrics["miou"]
    assert result.details["learning_rate"] in (1e-2, 3e-2)
    assert list(result.details["class_iou"]) == ["1", "2", "3"]
    json.dumps(result.details, allow_nan=False)


def test_a_whole_image_and_counted_classes_do_as_well(folder: Path) -> None:
    found = run(folder, "--predict", "whole", "--num-classes", "3", "--optimizer", "sgd")
    assert found.metrics["miou"] > 0.6
    assert found.details["windows"]["stride_px"] is None


def test_a_killed_training_goes_on(
    folder: Path, tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "SAVE_EVERY_S", 0.0)
    bench = dataclasses.replace(BENCH, cache_dir=tmp_path)
    steps: list[int] = []
    step_itself = HeadTraining.train_step

    def killed_at_step_20(training: HeadTraining, *rest: Any) -> None:
        if len(steps) == 20:
            raise KeyboardInterrupt
        steps.append(training.step)
        step_itself(training, *rest)

    monkeypatch.setattr(HeadTraining, "train_step", killed_at_step_20)
    with pytest.raises(KeyboardInterrupt):
        run(folder, bench=bench)
    (kept,) = (tmp_path / "segmentation").iterdir()
    steps.append(-1)
    resumed = run(folder, bench=bench)
    assert steps == [*range(20), -1, *range(20, 30)]
    assert resumed.metrics == result.metrics

    steps.clear()
    kept.write_bytes(b"damaged")
    monkeypatch.setattr(HeadTraining, "train_step", step_itself)
    said: list[str] = []
    anew = run(folder, bench=dataclasses.replace(bench, say=said.append))
    assert any("damaged" in text for text in said)
    assert anew.metrics == result.metrics


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image-px", "36"], "no multiple of the patch"),
        (["--batch-crops", "0"], "--batch-crops=0"),
        (["--learning-rates", "0"], "above 0"),
        (["--steps", "0"], "--steps=0"),
        (["--warmup-steps", "30"], "--warmup-steps=30"),
        (["--stride-px", "33"], "leaves gaps"),
        (["--ignore", "0", "1", "2"], "hold 1 classes"),
        (["--ignore", "-1"], "--ignore"),
        (["--num-classes", "2"], "the label 3"),
    ],
)
def test_wrong_options_are_refused(folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        run(folder, *words)


def test_a_convolutional_network_is_refused(folder: Path) -> None:
    backbone = dataclasses.replace(tiny_backbone(), model=torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(EvaluationError, match="vision transformer"):
        TASK.run(backbone, options(folder), BENCH)


def test_a_backbone_of_one_size_says_what_to_do(folder: Path) -> None:
    backbone = tiny_backbone()
    backbone.model.patch_embed.strict_img_size = True
    backbone.model.patch_embed.dynamic_img_pad = False
    backbone.model.dynamic_img_size = False
    with pytest.raises(EvaluationError, match="--image-px"):
        TASK.run(backbone, options(folder, "--image-px", "64"), BENCH)


def test_the_crop_is_near_512_pixels_if_not_said(folder: Path) -> None:
    from evaluation.segmentation.tokens import default_crop_px

    backbone = tiny_backbone()
    for patch_px, crop_px in ((8, 512), (14, 518), (16, 512)):
        backbone.model.patch_embed.patch_size = (patch_px, patch_px)
        assert default_crop_px(backbone) == crop_px
