"""The idx reader and Fashion-MNIST, made up and real."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.data import load_data
from evaluation.data_sources.fashion_mnist import DEBIAN_DIR
from evaluation.data_sources.idx import read_idx
from evaluation.errors import EvaluationError
from evaluation.holdout import labels_of


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def write_set(folder: Path, *, gzipped: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 7), ("t10k", 3)):
        arrays[f"{prefix}-images-idx3"] = random.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1"] = random.integers(0, 10, count, dtype=np.uint8)
    for name, array in arrays.items():
        data = idx_bytes(array)
        ending = "-ubyte.gz" if gzipped else "-ubyte"
        (folder / f"{name}{ending}").write_bytes(gzip.compress(data) if gzipped else data)
    return arrays


@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("gzipped", [True, False])
def test_made_up_files_are_read(tmp_path: Path, place: str, gzipped: bool) -> None:
    arrays = write_set(tmp_path / "set" / place, gzipped=gzipped)
    data = load_data(f"fashion-mnist:{tmp_path / 'set'}")
    assert data.split_names == ("train", "test")
    split = data.split("test")
    assert len(split) == 3
    assert labels_of(split).tolist() == arrays["t10k-labels-idx1"].tolist()
    image, label = split[2]
    assert label == arrays["t10k-labels-idx1"][2]
    assert np.array_equal(
        np.asarray(image), np.repeat(arrays["t10k-images-idx3"][2][..., None], 3, axis=2)
    )
    assert split.identity == data.split("test").identity != data.split("train").identity


def test_identity_follows_the_pixels(tmp_path: Path) -> None:
    arrays = write_set(tmp_path / "set", gzipped=False)
    before = load_data(f"fashion-mnist:{tmp_path / 'set'}").split("test").identity
    arrays["t10k-images-idx3"][1, 2, 3] ^= 1
    path = tmp_path / "set" / "t10k-images-idx3-ubyte"
    path.write_bytes(idx_bytes(arrays["t10k-images-idx3"]))
    assert load_data(f"fashion-mnist:{tmp_path / 'set'}").split("test").identity != before


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (idx_bytes(np.zeros((2, 3, 3), dtype=np.uint8))[:-1], "not as many as its head says"),
        (idx_bytes(np.zeros(6, dtype=np.uint8)), "does not begin"),
        (b"\0\0\x0d\x03" + bytes(20), "does not begin"),
        (b"\0\0\x08\x03\0\0", "not as many"),
        (b"", "does not begin"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(EvaluationError, match=said):
        read_idx(tmp_path / "file", 3)
    (tmp_path / "file.gz").write_bytes(gzip.compress(data)[:-6])
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_idx(tmp_path / "file.gz", 3)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", gzipped=False)
    path = tmp_path / "set" / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.array([0, 10, 1], dtype=np.uint8)))
    with pytest.raises(EvaluationError, match="do not fit"):
        load_data(f"fashion-mnist:{tmp_path / 'set'}").split("test")
    path.unlink()
    with pytest.raises(EvaluationError, match="t10k-labels-idx1"):
        load_data(f"fashion-mnist:{tmp_path / 'set'}").split("test")


def test_a_missing_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"dataset-fashion-mnist.*fashion-mnist:DIR"):
        load_data(f"fashion-mnist:{tmp_path}")


@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="Debian's dataset-fashion-mnist is not here")
def test_the_real_files_are_read() -> None:
    data = load_data("fashion-mnist")
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(labels_of(train)).tolist() == [6000] * 10
    assert torch.bincount(labels_of(test)).tolist() == [1000] * 10
    image, label = train[0]
    assert (image.size, train.class_names[int(label)]) == ((28, 28), "Ankle boot")
