"""Image folders as labelled data, splits, and what is held out of them."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.holdout import holdout, labels_of, stratified_indices
from online_synclr.paths import CHECK_SET_DIR
from tests.labelled_files import picture, write_pictures


def test_a_folder_without_splits_is_train(tmp_path: Path) -> None:
    write_pictures(
        tmp_path, ["cat/b.png", "cat/a.png", "dog/deep/c.png", "dog/.d.png", "cat/e.txt.png"]
    )
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    data = load_data(str(tmp_path))
    assert data.split_names == ("train",)
    split = data.split("train")
    assert split.class_names == ("cat", "dog")
    assert [split[index][1] for index in range(len(split))] == [0, 0, 0, 1]
    image, _ = split[1]
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(picture(0)))


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_share_their_classes(tmp_path: Path, val: str) -> None:
    write_pictures(tmp_path, ["train/a/1.png", "train/b/1.png", f"{val}/b/2.png", "test/c/3.png"])
    write_pictures(tmp_path, ["other/a/1.png"])
    data = load_data(str(tmp_path))
    assert data.split_names == ("train", "val", "test")
    assert data.split("val").class_names == ("a", "b", "c")
    assert labels_of(data.split("val")).tolist() == [1]
    assert labels_of(data.split("test")).tolist() == [2]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["train/1.png", "bus/1.png"])
    data = load_data(str(tmp_path))
    assert data.split("train").class_names == ("bus", "train")


def test_the_check_set_is_the_shipped_folder() -> None:
    split = load_data("check_set").split("train")
    assert len(split) == len(list(CHECK_SET_DIR.glob("*/*.png")))
    assert split.name == "check_set train"
    assert tuple(split.class_names) == tuple(
        sorted(place.name for place in CHECK_SET_DIR.iterdir() if place.is_dir())
    )


def test_identity_follows_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pictures(folder, ["a/1.png", "b/1.png"])
    first = load_data(str(folder)).split("train").identity
    assert load_data(str(folder)).split("train").identity == first

    shutil.copytree(folder, tmp_path / "moved" / "set", copy_function=shutil.copy2)
    assert load_data(str(tmp_path / "moved" / "set")).split("train").identity == first

    os.utime(folder / "a" / "1.png", ns=(1, 1))
    touched = load_data(str(folder)).split("train").identity
    os.rename(folder / "b", folder / "c")
    renamed = load_data(str(folder)).split("train").identity
    write_pictures(folder, ["c/2.png"])
    grown = load_data(str(folder)).split("train").identity
    assert len({first, touched, renamed, grown}) == 4


def test_a_split_is_pickled_without_its_images(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{label}/{index}.png" for label in "ab" for index in range(50)])
    split = load_data(str(tmp_path)).split("train")
    pickled = pickle.dumps(split)
    assert len(pickled) < 4000
    copy = pickle.loads(pickled)
    assert copy.identity == split.identity
    assert np.array_equal(np.asarray(copy[70][0]), np.asarray(split[70][0]))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    (tmp_path / "a" / "2.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:60])
    (tmp_path / "b" / "1.png").write_text("not an image")
    split = load_data(str(tmp_path)).split("train")
    split[0]
    for index, name in ((1, "a/2.png"), (2, "b/1.png")):
        with pytest.raises(EvaluationError, match=name):
            split[index]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "0 sub-folders with images"),
        (["1.png"], "0 sub-folders with images"),
        (["a/1.png"], "two classes are the least"),
        (["val/a/1.png", "valid/a/1.png"], "val and valid"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, files: list[str], said: str) -> None:
    write_pictures(tmp_path, files)
    with pytest.raises(EvaluationError, match=said):
        load_data(str(tmp_path))


def test_missing_folders_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such folder"):
        load_data(str(tmp_path / "nothing"))
    with pytest.raises(EvaluationError, match="empty"):
        load_data("")
    with pytest.raises(EvaluationError, match="no test split, only train"):
        load_data("check_set").split("test")


def test_every_class_gives_its_share() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] + [3] * 2 + [4] * 100)
    kept, held = stratified_indices(labels, 0.2, seed=3)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert torch.bincount(labels[held], minlength=5).tolist() == [2, 1, 0, 1, 20]
    assert torch.equal(held, held.sort().values)
    assert torch.equal(stratified_indices(labels, 0.2, seed=3)[1], held)
    assert not torch.equal(stratified_indices(labels, 0.2, seed=4)[1], held)


def test_images_of_several_classes_are_divided_by_their_set() -> None:
    labels = torch.tensor([[True, False], [True, True]] * 10)
    _, held = stratified_indices(labels, 0.5, seed=0)
    assert labels[held].sum(dim=0).tolist() == [10, 5]


def test_a_held_out_part_is_a_split(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{label}/{index}.png" for label in "ab" for index in range(5)])
    whole = load_data(str(tmp_path)).split("train")
    kept, held = holdout(whole, share=0.2, seed=0)
    assert (len(kept), len(held)) == (8, 2)
    assert labels_of(held).tolist() == [0, 1]
    assert len({kept.identity, held.identity, whole.identity}) == 3
    everywhere = {
        np.asarray(part[i][0]).tobytes() for part in (kept, held) for i in range(len(part))
    }
    assert len(everywhere) == 10


def test_nothing_can_be_held_out_of_single_images() -> None:
    with pytest.raises(EvaluationError, match="no class"):
        stratified_indices(torch.arange(4), 0.5, seed=0)
    with pytest.raises(ValueError, match="share"):
        stratified_indices(torch.zeros(4), 1.0, seed=0)
