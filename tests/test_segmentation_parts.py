"""Parts of the segmentation task against plain ways to do the same."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn.functional import interpolate

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.segmentation.classes import IGNORED, Classes, counted_classes, found_classes
from evaluation.segmentation.confusion import class_ious, confusion, pixel_metrics
from evaluation.segmentation.folder import find_pairs
from evaluation.segmentation.heads import LinearHeads, TokenNorm
from evaluation.segmentation.prediction import Windows, predictions, starts, upsampled_argmax
from evaluation.segmentation.views import random_crop, whole_view
from tests.segmentation_files import COLOURS, CROP_PX, blocks, tiny_backbone, write_segmentation

CPU = Bench(torch.device("cpu"))


def naive_iou(truth: np.ndarray, predicted: np.ndarray, label: int) -> float | None:
    counts = truth != IGNORED
    both = either = 0
    for true, said in zip(truth[counts], predicted[counts], strict=True):
        both += true == label and said == label
        either += true == label or said == label
    return both / either if either else None


def test_metrics_are_those_of_a_loop_and_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(-1, 5, 400)
    predicted = np.where(random.random(400) < 0.6, truth.clip(0), random.integers(0, 6, 400))
    truth[truth == 3] = 2
    predicted[predicted == 3] = 4
    matrix = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), 7)
    counts = truth != IGNORED
    assert np.array_equal(
        matrix.numpy(), confusion_matrix(truth[counts], predicted[counts], labels=range(7))
    )
    ious = [naive_iou(truth, predicted, label) for label in range(7)]
    assert ious[3] is None
    assert ious[5] == 0
    assert class_ious(matrix) == pytest.approx(ious)
    there = [(predicted[truth == c] == c).mean() for c in range(7) if (truth == c).any()]
    assert pixel_metrics(matrix) == pytest.approx(
        {
            "miou": np.mean([iou for iou in ious if iou is not None]),
            "pixel_accuracy": (truth == predicted)[counts].mean(),
            "mean_class_accuracy": np.mean(there),
        }
    )


def test_the_norm_is_torchs_batch_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = TokenNorm(6), nn.BatchNorm1d(6, affine=False)
    for _ in range(3):
        tokens = torch.randn(40, 6) * 3 + 2
        assert torch.allclose(ours.update(tokens, None), theirs(tokens), atol=1e-5)
    theirs.eval()
    assert torch.allclose(ours(tokens.view(4, 10, 6)).view(40, 6), theirs(tokens), atol=1e-5)


def test_a_large_mean_does_not_hide_the_deviation() -> None:
    tokens = torch.tensor([[1000.0], [1000.5]]).repeat(500, 1)
    assert TokenNorm(1).update(tokens, None).abs().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("side", "crop", "stride"), [(32, 32, 21), (100, 32, 21), (53, 32, 32)])
def test_windows_cover_a_side(side: int, crop: int, stride: int) -> None:
    begun = starts(side, crop, stride)
    covered = {pixel for start in begun for pixel in range(start, start + crop)}
    assert covered == set(range(side))
    assert all(later - earlier <= stride for earlier, later in pairwise(begun))
    assert len(set(begun)) == len(begun)


def test_classes_taken_in_parts_have_the_same_maximum() -> None:
    logits = torch.randn(1, 37, 5, 7)
    whole = interpolate(logits, (23, 31), mode="bilinear")[0].argmax(0)
    assert torch.equal(upsampled_argmax(logits, (23, 31)), whole)


def test_windows_are_averaged_where_they_overlap() -> None:
    backbone, norm, heads = tiny_backbone(), TokenNorm(48), LinearHeads(2, 48, 5, seed=1)
    norm.mean_D.normal_()
    image = torch.randint(0, 256, (3, 32, 52), dtype=torch.uint8)
    ours = predictions(image, (64, 104), backbone, norm, heads, Windows(32, 20), CPU)
    sums, counts = torch.zeros(2, 5, 32, 52), torch.zeros(52)
    for left in (0, 20):
        part = (image[None, ..., left : left + 32].float() / 255 - 0.5) / 0.25
        tokens = norm(backbone.model.forward_features(part)[:, 1:].view(1, 4, 4, 48))
        counts[left : left + 32] += 1
        for head in range(2):
            logits = torch.einsum("nhwd,cd->nchw", tokens, heads.weights[head])
            sums[head, ..., left : left + 32] += interpolate(logits, (32, 32), mode="bilinear")[0]
    for head, predicted in enumerate(ours):
        mean = sums[head] / counts
        expected = interpolate(mean[None], (64, 104), mode="bilinear")[0].argmax(0)
        # Rounding may tip a pixel whose two best classes are nearly equal.
        assert (predicted == expected).float().mean() > 0.999


def test_one_window_and_the_whole_image_agree() -> None:
    backbone, norm, heads = tiny_backbone(), TokenNorm(48), LinearHeads(1, 48, 5, seed=1)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    by = [
        next(predictions(image, (32, 32), backbone, norm, heads, Windows(32, stride), CPU))
        for stride in (20, None)
    ]
    assert torch.equal(*by)


def test_images_narrower_than_a_window_are_padded() -> None:
    backbone, norm, heads = tiny_backbone(), TokenNorm(48), LinearHeads(1, 48, 5, seed=1)
    image = torch.randint(0, 256, (3, 9, 70), dtype=torch.uint8)
    (predicted,) = predictions(image, (18, 140), backbone, norm, heads, Windows(32, 21), CPU)
    assert predicted.shape == (18, 140)


@pytest.mark.parametrize("size", [(40, 56), (20, 20), (100, 12)])
def test_crops_keep_colours_and_labels_together(size: tuple[int, int]) -> None:
    labels_HW = blocks(np.random.default_rng(1), *size).astype(np.int16)
    image = Image.fromarray(COLOURS[labels_HW])
    near = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        view = random_crop(image, labels_HW - 1, CROP_PX, (9, 8, 7), random)
        assert view.image_3HW.shape == (3, CROP_PX, CROP_PX)
        pixels = view.image_3HW.permute(1, 2, 0).int()
        labels = view.labels_HW.long()
        # Between two blocks a bilinear pixel is a mixture.
        inner = torch.zeros_like(labels, dtype=torch.bool)
        inner[2:-2, 2:-2] = True
        for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)):
            inner &= labels.roll(shift, (0, 1)) == labels
        inner &= labels != IGNORED
        expected = torch.from_numpy(COLOURS.astype(int))[labels + 1]
        near.append(((pixels - expected).abs().amax(-1) < 60)[inner])
        outside = (pixels == torch.tensor([9, 8, 7])).all(-1)
        assert (labels[outside] == IGNORED).all()
    assert torch.cat(near).numel() > 300
    assert torch.cat(near).float().mean() > 0.9


def test_the_whole_view_has_the_crops_scale() -> None:
    labels_HW = np.zeros((100, 250), dtype=np.int16)
    view = whole_view(Image.fromarray(np.zeros((100, 250, 3), np.uint8)), labels_HW, 32)
    assert tuple(view.image_3HW.shape) == (3, 32, 80)
    assert tuple(view.labels_HW.shape) == (100, 250)
    long = whole_view(Image.fromarray(np.zeros((10, 100, 3), np.uint8)), labels_HW, 32)
    assert tuple(long.image_3HW.shape) == (3, 13, 128)


def test_classes_are_found_or_counted(tmp_path: Path) -> None:
    for index, values in enumerate(([[0, 3]], [[9, 3]])):
        Image.fromarray(np.array(values, dtype=np.uint8)).save(tmp_path / f"{index}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    classes = found_classes(paths, [0], CPU)
    assert classes == Classes((3, 9), (0,))
    assert classes.read(paths[0]).tolist() == [[IGNORED, 0]]
    assert classes.read(paths[1]).tolist() == [[1, 0]]
    assert counted_classes(4, [0, 2]) == Classes((1, 3, 4, 5), (0, 2))
    with pytest.raises(EvaluationError, match=r"1.png has the label 9.*--num-classes"):
        counted_classes(3, [0]).read(paths[1])
    with pytest.raises(EvaluationError, match="hold 1 classes"):
        found_classes(paths[:1], [0], CPU)


@pytest.mark.parametrize("kind", ["rgb", "text"])
def test_what_is_no_label_map_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "map.png"
    if kind == "rgb":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    else:
        path.write_text("no image")
    with pytest.raises(EvaluationError, match=r"map\.png"):
        Classes((1, 2), (0,)).read(path)


def test_folders_that_are_not_laid_out_so_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"images/training is not there.*ADE20k"):
        find_pairs(tmp_path)
    root = write_segmentation(tmp_path / "set")
    first = find_pairs(root).identity
    (root / "annotations" / "training" / "3.png").rename(tmp_path / "3.png")
    with pytest.raises(EvaluationError, match=r"3\.png has no label map.*1 of 8"):
        find_pairs(root)
    (root / "images" / "training" / "3.png").unlink()
    assert find_pairs(root).identity != first
