"""Weighted nearest neighbours against scikit-learn, and the image folder they run on."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from online_synclr.config import ConfigError
from tests.tiny_objective import tiny_config
from trainer.evaluation import knn
from trainer.evaluation.features import extract, raw_pixels
from trainer.evaluation.image_folder import load_images, resolve_folder
from trainer.evaluation.probe import KnnProbe
from trainer.objective.model import build_model


def _clusters(num: int, dims: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, classes, (num,), generator=generator)
    centres = torch.randn(classes, dims, generator=generator)
    return centres[labels] + 1.5 * torch.randn(num, dims, generator=generator), labels


@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_agrees_with_scikit_learn(neighbours: int) -> None:
    features, labels = _clusters(90, 6, 5)
    reference = KNeighborsClassifier(
        neighbours,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / knn.TEMPERATURE),
    )
    expected = cross_val_predict(reference, features.numpy(), labels.numpy(), cv=LeaveOneOut())
    found = knn.predict_leave_one_out(features, labels, neighbours=neighbours)
    assert found.tolist() == expected.tolist()
    accuracy = knn.leave_one_out_accuracy(features, labels, neighbours=neighbours)
    assert accuracy == pytest.approx((expected == labels.numpy()).mean())
    assert 0.3 < accuracy < 1.0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _clusters(50, 4, 3)
    whole = knn.predict_leave_one_out(features, labels, neighbours=7)
    monkeypatch.setattr(knn, "CHUNK_QUERIES", 8)
    assert torch.equal(whole, knn.predict_leave_one_out(features, labels, neighbours=7))


def test_an_image_is_never_its_own_neighbour() -> None:
    features = torch.eye(4)
    labels = torch.tensor([0, 1, 2, 3])
    assert knn.leave_one_out_accuracy(features, labels, neighbours=1) == 0.0


def test_far_neighbours_do_not_overflow() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01]])
    labels = torch.tensor([0, 0, 1, 1])
    found = knn.leave_one_out_accuracy(features, labels, neighbours=3, temperature=1e-4)
    assert found == 1.0


def test_features_that_are_not_finite_give_no_number() -> None:
    features, labels = _clusters(20, 4, 3)
    features[3, 0] = math.nan
    assert math.isnan(knn.leave_one_out_accuracy(features, labels, neighbours=3))


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="4 neighbours asked of 4 images"):
        knn.leave_one_out_accuracy(torch.eye(4), torch.arange(4), neighbours=4)


def _folder(root: Path) -> Path:
    for label, value in (("pear", 40), ("apple", 200)):
        (root / label).mkdir(parents=True)
        for index, px in enumerate((24, 48)):
            pixels = np.full((px, px, 3), value + index, np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    (root / "readme.txt").write_text("not a label")
    return root


def test_image_folder_is_read_in_sorted_order_at_one_size(tmp_path: Path) -> None:
    images = load_images(_folder(tmp_path), 32)
    assert images.names == ("apple", "pear")
    assert images.images_NCHW.shape == (4, 3, 32, 32)
    assert images.images_NCHW.dtype == torch.uint8
    assert images.labels_N.tolist() == [0, 0, 1, 1]
    assert images.images_NCHW[:, 0, 0, 0].tolist() == [200, 201, 40, 41]


def test_folder_setting(tmp_path: Path) -> None:
    assert resolve_folder("") is None
    assert resolve_folder(str(_folder(tmp_path / "set"))) == tmp_path / "set"
    with pytest.raises(ConfigError, match=r"monitor\.knn_folder"):
        resolve_folder(str(tmp_path / "nowhere"))


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / "apple" / "9.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"9\.png cannot be read"):
        load_images(tmp_path, 32)


def test_features_come_in_order_and_baselines_tell_the_labels_apart(tmp_path: Path) -> None:
    images = load_images(_folder(tmp_path), 32)
    features = extract(
        lambda batch: batch.mean((2, 3)), images.images_NCHW, torch.device("cpu"), batch_images=3
    )
    assert features.shape == (4, 3)
    assert features[0, 0] > features[2, 0]
    raw = raw_pixels(images.images_NCHW)
    assert knn.leave_one_out_accuracy(raw, images.labels_N, neighbours=1) == 1.0


def test_probe_measures_a_backbone_and_the_baselines(tmp_path: Path) -> None:
    config = tiny_config()
    folder = {"knn_folder": str(_folder(tmp_path / "set")), "knn_neighbours": 1}
    config = config.model_copy(update={"monitor": config.monitor.model_copy(update=folder)})
    probe = KnnProbe(config, torch.device("cpu"))
    baselines = probe.baselines(seed=3)
    assert baselines["raw_pixels"] == 1.0
    model = build_model(config.trainer, run_seed=3)
    assert probe.accuracy(model.teacher.backbone) == baselines["random_weights"]

    nothing = config.monitor.model_copy(update={"knn_folder": ""})
    empty = KnnProbe(config.model_copy(update={"monitor": nothing}), torch.device("cpu"))
    assert not empty.has_images
    assert empty.accuracy(model.teacher.backbone) is None
    assert empty.baselines(seed=3) == {}

    greedy = config.monitor.model_copy(update={"knn_neighbours": 4})
    with pytest.raises(ConfigError, match=r"monitor\.knn_neighbours=4"):
        KnnProbe(config.model_copy(update={"monitor": greedy}), torch.device("cpu"))
