"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 and 10,000 grey pictures of 28 pixels.

Its four files come with Debian's package dataset-fashion-mnist, or from its origin
(https://github.com/zalandoresearch/fashion-mnist); torchvision unpacks the same.
"""

from functools import partial
from pathlib import Path

from evaluation.data_sources.array_split import ArraySplit
from evaluation.data_sources.idx import read_idx
from evaluation.data_sources.splits_by_name import SplitsByName
from evaluation.errors import EvaluationError
from evaluation.splits import LabelledData

NAME = "fashion-mnist"
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_DIR = Path("FashionMNIST", "raw")
"""Where torchvision.datasets.FashionMNIST(DIR) puts them below DIR."""
PREFIXES = {"train": "train", "test": "t10k"}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load_fashion_mnist(folder: Path = DEBIAN_DIR) -> LabelledData:
    """Its train and test splits.

    Raises:
        EvaluationError: the files are not in `folder`, nor in `TORCHVISION_DIR` below it.
    """
    for place in (folder, folder / TORCHVISION_DIR):
        if _file(place, PREFIXES["train"], "images-idx3") is not None:
            return SplitsByName(
                NAME,
                {"train": partial(_split, place, "train"), "test": partial(_split, place, "test")},
            )
    raise EvaluationError(
        f"--data {NAME}: {folder} has no train-images-idx3-ubyte.gz; install Debian's package "
        "dataset-fashion-mnist, or get the four files from "
        f"https://github.com/zalandoresearch/fashion-mnist and name their folder: {NAME}:DIR."
    )


def _split(folder: Path, split: str) -> ArraySplit:
    images_NHW = read_idx(_required(folder, PREFIXES[split], "images-idx3"), 3)
    labels_N = read_idx(_required(folder, PREFIXES[split], "labels-idx1"), 1)
    if len(images_NHW) != len(labels_N) or (labels_N >= len(CLASSES)).any():
        raise EvaluationError(
            f"the {split} labels in {folder} do not fit its images; get the four files again."
        )
    return ArraySplit(f"{NAME} {split}", images_NHW, labels_N.astype(int), CLASSES)


def _required(folder: Path, prefix: str, kind: str) -> Path:
    path = _file(folder, prefix, kind)
    if path is None:
        raise EvaluationError(
            f"{folder} has no {prefix}-{kind}-ubyte.gz, one of Fashion-MNIST's four files; get it "
            "again."
        )
    return path


def _file(folder: Path, prefix: str, kind: str) -> Path | None:
    names = (f"{prefix}-{kind}-ubyte.gz", f"{prefix}-{kind}-ubyte")
    return next((folder / name for name in names if (folder / name).is_file()), None)
