"""Hugging Face data sets from a folder: saved, of images, of parquet."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.holdout import labels_of
from tests.labelled_files import picture, write_pictures

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(labels: list[Any], kind: Any, seed: int = 0, **columns: list[Any]) -> Any:
    pictures = [picture(seed + index) for index in range(len(labels))]
    features = {"picture": datasets.Image(), "kind": kind}
    features |= {name: datasets.Value("int64") for name in columns}
    rows = {"picture": pictures, "kind": labels, **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def saved(folder: Path, **splits: Any) -> str:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return f"hf:{folder}"


NAMES = datasets.ClassLabel(names=["cat", "dog", "fox"])


def test_a_saved_table_is_read(tmp_path: Path) -> None:
    name = saved(tmp_path / "set", train=table([2, 0], NAMES), validation=table([1], NAMES, seed=5))
    data = load_data(name)
    assert (data.name, list(data.split_names)) == ("set", ["train", "val"])
    split = data.split("train")
    assert (list(split.class_names), labels_of(split).tolist()) == (["cat", "dog", "fox"], [2, 0])
    image, label = split[1]
    assert (image.mode, label) == ("RGB", 0)
    assert np.array_equal(np.asarray(image), np.asarray(picture(1)))
    copy = pickle.loads(pickle.dumps(split))
    assert copy.identity == split.identity == load_data(name).split("train").identity
    assert np.array_equal(np.asarray(copy[1][0]), np.asarray(image))


def test_one_table_is_train(tmp_path: Path) -> None:
    table([2, 0], NAMES).save_to_disk(tmp_path / "set")
    assert list(load_data(f"hf:{tmp_path / 'set'}").split_names) == ["train"]


def test_identity_follows_the_rows(tmp_path: Path) -> None:
    rows = table([2, 0, 1], NAMES)
    whole = load_data(saved(tmp_path / "whole", train=rows)).split("train").identity
    fewer = load_data(saved(tmp_path / "fewer", train=rows.select([1, 0]))).split("train").identity
    other = load_data(saved(tmp_path / "other", train=table([2, 0, 1], NAMES, seed=9)))
    assert len({whole, fewer, other.split("train").identity}) == 3


def test_parquet_files_are_read(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 2]), ("test", [1])):
        (tmp_path / "set").mkdir(exist_ok=True)
        table(labels, NAMES).to_parquet(tmp_path / "set" / f"{split}.parquet")
    data = load_data(f"hf:{tmp_path / 'set'}")
    assert list(data.split_names) == ["train", "test"]
    assert labels_of(data.split("train")).tolist() == [0, 2]
    assert list(data.split("test").class_names) == ["cat", "dog", "fox"]


def test_an_image_folder_is_read_and_its_changes_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pictures(folder, ["train/a/1.png", "train/b/1.png", "test/b/2.png"])
    split = load_data(f"hf:{folder}").split("train")
    assert (list(split.class_names), labels_of(split).tolist()) == (["a", "b"], [0, 1])
    write_pictures(folder, ["train/b/1.png"], seed=77)
    changed = load_data(f"hf:{folder}").split("train")
    assert changed.identity != split.identity
    assert np.array_equal(np.asarray(changed[1][0]), np.asarray(picture(77)))
    (folder / "train" / "a" / "1.png").write_text("no image")
    with pytest.raises(EvaluationError, match="row 0 of set train"):
        load_data(f"hf:{folder}").split("train")[0]


@pytest.mark.parametrize(
    ("kind", "train", "test", "names", "codes"),
    [
        (datasets.Value("string"), ["fox", "cat"], ["ant"], ["ant", "cat", "fox"], [2, 1]),
        (datasets.Value("int64"), [7, 3], [5], ["3", "5", "7"], [2, 0]),
    ],
)
def test_plain_columns_have_their_values_as_classes(
    tmp_path: Path, kind: Any, train: list[Any], test: list[Any], names: list[str], codes: list[int]
) -> None:
    name = saved(tmp_path / "set", train=table(train, kind), test=table(test, kind))
    with pytest.raises(EvaluationError, match=r"0 columns for the label.*picture, kind"):
        load_data(name)
    split = load_data(f"{name}:picture:kind").split("train")
    assert (list(split.class_names), labels_of(split).tolist()) == (names, codes)


def test_images_of_several_classes(tmp_path: Path) -> None:
    name = saved(tmp_path / "set", train=table([[2, 0], []], datasets.List(NAMES)))
    split = load_data(name).split("train")
    assert labels_of(split).tolist() == [[True, False, True], [False, False, False]]


def test_the_column_is_named_where_several_could_be_it(tmp_path: Path) -> None:
    rows = table([2, 0], NAMES, fine=[0, 1]).cast_column(
        "fine", datasets.ClassLabel(names=["x", "y"])
    )
    name = saved(tmp_path / "set", train=rows)
    with pytest.raises(EvaluationError, match="2 columns for the label"):
        load_data(name)
    assert labels_of(load_data(f"{name}:picture:fine").split("train")).tolist() == [0, 1]
    with pytest.raises(EvaluationError, match="no column coarse"):
        load_data(f"{name}:picture:coarse")
    with pytest.raises(EvaluationError, match="IMAGE_COLUMN:LABEL_COLUMN"):
        load_data(f"{name}:picture")


def test_splits_without_labels_are_left_out(tmp_path: Path) -> None:
    rows = {"train": table([2, 0], NAMES), "test": table([-1, -1], NAMES)}
    assert list(load_data(saved(tmp_path / "set", **rows)).split_names) == ["train"]
    with pytest.raises(EvaluationError, match="some rows"):
        load_data(saved(tmp_path / "half", train=table([2, -1], NAMES)))


def test_unknown_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="splits unsupervised"):
        load_data(saved(tmp_path / "set", unsupervised=table([1], NAMES)))


def test_what_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(path: str) -> None:
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub\n(offline)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(EvaluationError, match="hf:nobody/nothing cannot be loaded") as raised:
        load_data("hf:nobody/nothing")
    assert "\n" not in str(raised.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(EvaluationError, match=r"pip install 'online-synclr\[datasets\]'"):
        load_data("hf:food101")
