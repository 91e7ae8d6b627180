"""Data sets in torchvision's layouts: splits, labels, classes; what is said of missing ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from evaluation.data import load_data
from evaluation.data_sources.torchvision_sets import TABLE
from evaluation.errors import EvaluationError
from evaluation.holdout import labels_of
from tests.labelled_files import write_lines, write_pictures
from tests.torchvision_layouts import LAYOUTS, caltech101


@pytest.fixture(autouse=True)
def _made_up_files_pass_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares checksums of the real files, which made-up ones cannot have."""
    for module in (datasets.flowers102, datasets.cifar):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_and_labels_are_the_sources(tmp_path: Path, name: str) -> None:
    expected = LAYOUTS[name](tmp_path / "root")
    data = load_data(f"torchvision:{name}:{tmp_path / 'root'}")
    assert list(data.split_names) == list(expected)
    for split_name, labels in expected.items():
        split = data.split(split_name)
        assert split.name == f"{name} {split_name}"
        assert labels_of(split).tolist() == labels
        assert [np.asarray(split[index][1]).tolist() for index in range(len(split))] == labels
        assert split[len(split) - 1][0].mode == "RGB"
        assert split.identity == data.split(split_name).identity


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("FGVCAircraft", ["707-320", "A300B4"]),
        ("StanfordCars", ["Audi", "BMW", "Fiat"]),
        ("OxfordIIITPet", ["Abyssinian", "american bulldog"]),
        ("SUN397", ["abbey", "building/outdoor"]),
        ("Caltech101", ["BACKGROUND_Google", "ant", "beaver"]),
        ("Food101", ["bibimbap", "ramen"]),
        ("VOC2007", ["aeroplane", "person"]),
        ("CIFAR10", ["plane", "car", "bird"]),
        ("ImageNet", ["tench, Tinca tinca", "goldfish"]),
    ],
)
def test_classes_have_their_names(tmp_path: Path, name: str, classes: list[str]) -> None:
    LAYOUTS[name](tmp_path / "root")
    split = load_data(f"torchvision:{name}:{tmp_path / 'root'}").split("train")
    assert list(split.class_names) == classes


@pytest.mark.parametrize(
    "name", ["FGVCAircraft", "DTD", "OxfordIIITPet", "Food101", "StanfordCars"]
)
def test_images_are_those_that_torchvision_gives(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / "root")
    theirs = getattr(datasets, name)(tmp_path / "root", split="test")
    ours = load_data(f"torchvision:{name}:{tmp_path / 'root'}").split("test")
    assert len(ours) == len(theirs)
    for index, (image, label) in enumerate(theirs):
        assert ours[index][1] == label
        assert np.array_equal(np.asarray(ours[index][0]), np.asarray(image))


def test_drawn_splits_of_caltech_do_not_overlap(tmp_path: Path) -> None:
    caltech101(tmp_path)
    data = load_data(f"torchvision:Caltech101:{tmp_path}")
    parts = [data.split(name) for name in data.split_names]
    pictures = [{np.asarray(part[i][0]).tobytes() for i in range(len(part))} for part in parts]
    assert not pictures[0] & pictures[1]
    again = load_data(f"torchvision:Caltech101:{tmp_path}").split("train")
    assert again.identity == data.split("train").identity


def test_lists_of_the_authors_decide_the_splits_of_caltech(tmp_path: Path) -> None:
    caltech101(tmp_path)
    write_lines(tmp_path / "train.txt", ["ant/image_0002.jpg 1", "beaver/image_0001.jpg 2"])
    write_lines(tmp_path / "test.txt", ["ant/image_0001.jpg 1"])
    data = load_data(f"torchvision:Caltech101:{tmp_path}")
    assert labels_of(data.split("train")).tolist() == [1, 2]
    assert labels_of(data.split("test")).tolist() == [1]


def test_sun397_is_drawn_where_the_partition_is_missing(tmp_path: Path) -> None:
    base = tmp_path / "SUN397"
    write_lines(base / "ClassName.txt", ["/a/abbey", "/a/alley"])
    for seed, label in ((0, "abbey"), (1000, "alley")):
        write_pictures(base / "a" / label, [f"sun_{index}.jpg" for index in range(103)], seed)
    data = load_data(f"torchvision:SUN397:{tmp_path}")
    parts = [data.split(name) for name in ("train", "test")]
    assert [labels_of(part).tolist() for part in parts] == [[0] * 50 + [1] * 50] * 2
    drawn = [{np.asarray(part[i][0]).tobytes() for i in range(len(part))} for part in parts]
    assert len(drawn[0] | drawn[1]) == 200


@pytest.mark.parametrize("name", TABLE)
def test_a_missing_set_says_where_it_belongs_and_how_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(EvaluationError) as raised:
        load_data(f"torchvision:{name}:{tmp_path}")
    text = str(raised.value)
    assert str(tmp_path / TABLE[name].needed[0]) in text
    assert "download=True" in text or TABLE[name].by_hand in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["FGVCAircraft", "Food101", "VOC2007"])
def test_an_incomplete_set_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / "root")
    for path in (tmp_path / "root").rglob("*test*"):
        if path.suffix in (".txt", ".json"):
            path.unlink()
    data = load_data(f"torchvision:{name}:{tmp_path / 'root'}")
    data.split("train")
    with pytest.raises(EvaluationError, match=r"test split.*download=True"):
        data.split("test")


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"torchvision:Nothing.*FGVCAircraft.*image folder"):
        load_data(f"torchvision:Nothing:{tmp_path}")
