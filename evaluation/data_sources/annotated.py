"""Data sets whose annotations are read here: torchvision's classes decode, or make no splits.

A reader takes the name of the split for tables, DIR, and the split's own word. The files lie where
torchvision puts them. Shapes: N images, C classes.

Splits that torchvision does not make:

- SUN397: the first official partition, `Training_01.txt` and `Testing_01.txt` (50 and 50 images of
  a class; Partitions.zip of its origin, unpacked in DIR/SUN397), as in the paper's protocol. Where
  those files are missing the same numbers are drawn with seed 0.
- Caltech-101: 30 images of each of the 102 folders for training, the rest for testing (Kornblith et
  al., arXiv 1805.08974; BACKGROUND_Google counts). DIR/train.txt and DIR/test.txt are used if they
  are there, lines of `<folder>/<image> <label>` as the authors' code writes them; otherwise they
  are drawn with seed 0. The authors' code draws with replacement, so that some classes have fewer
  than 30 different images; here they are different.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.data_sources.file_split import FileSplit
from evaluation.data_sources.image_folder import images_by_class
from evaluation.errors import EvaluationError

SEED = 0
SUN397_IMAGES_A_CLASS = 50
CALTECH101_TRAIN_IMAGES_A_CLASS = 30


def read_pets(name: str, folder: Path, word: str) -> FileSplit:
    """Oxford-IIIT Pets: breeds, `trainval` and `test` of annotations/*.txt."""
    base = folder / "oxford-iiit-pet"
    rows = [line.split() for line in _lines(base / "annotations" / f"{word}.txt")]
    labels = [int(row[1]) - 1 for row in rows]
    # An image is called <breed>_<number>; the breeds' own numbers are not in alphabetic order.
    breeds = {label: row[0].rpartition("_")[0] for label, row in zip(labels, rows, strict=True)}
    classes = [breeds[label].replace("_", " ") for label in range(max(breeds) + 1)]
    return FileSplit(name, base / "images", [f"{row[0]}.jpg" for row in rows], labels, classes)


def read_voc2007(name: str, folder: Path, word: str) -> FileSplit:
    """Pascal VOC 2007: bool (N, 20), true where an object of the class is marked 1.

    Objects marked difficult (0) count as absent, as in the authors' code.
    """
    base = folder / "VOCdevkit" / "VOC2007"
    sets = base / "ImageSets" / "Main"
    images = [line.split()[0] for line in _lines(sets / f"{word}.txt")]
    classes = sorted(path.name[: -len("_train.txt")] for path in sets.glob("*_train.txt"))
    if not images or len(classes) < 2:
        raise EvaluationError(f"{sets} lists no images of at least two classes; unpack it again.")
    labels_NC = torch.zeros(len(images), len(classes), dtype=torch.bool)
    for index, label in enumerate(classes):
        marks = dict(line.split()[:2] for line in _lines(sets / f"{label}_{word}.txt"))
        labels_NC[:, index] = torch.tensor([marks[image] == "1" for image in images])
    files = [f"{image}.jpg" for image in images]
    return FileSplit(name, base / "JPEGImages", files, labels_NC, classes)


def read_sun397(name: str, folder: Path, word: str) -> FileSplit:
    """SUN397: 19,850 images each for training and testing."""
    base = folder / "SUN397"
    # Lines are /a/abbey or /a/apartment_building/outdoor: the initial is a folder, not a name.
    classes = sorted(line.strip("/") for line in _lines(base / "ClassName.txt"))
    listed = base / {"train": "Training_01.txt", "test": "Testing_01.txt"}[word]
    if listed.is_file():
        files = [line.strip("/") for line in _lines(listed)]
    else:
        files = _drawn_sun397(base, classes, word)
    index = {label: position for position, label in enumerate(classes)}
    labels = [index[os.path.dirname(file)] for file in files]
    return FileSplit(name, base, files, labels, [label[2:] for label in classes])


def read_caltech101(name: str, folder: Path, word: str) -> FileSplit:
    """Caltech-101 with its background class: 30 images of each for training."""
    base = folder / "caltech101" / "101_ObjectCategories"
    by_class = {
        label: [os.path.relpath(file, base) for file in files]
        for label, files in images_by_class(base).items()
    }
    classes = list(by_class)
    listed = folder / f"{word}.txt"
    if listed.is_file():
        files = [line.rpartition(" ")[0] for line in _lines(listed)]
    else:
        random = np.random.RandomState(SEED)
        files = []
        for own in by_class.values():
            order = random.permutation(len(own))
            first = order[:CALTECH101_TRAIN_IMAGES_A_CLASS]
            chosen = first if word == "train" else order[CALTECH101_TRAIN_IMAGES_A_CLASS:]
            files += [own[index] for index in sorted(chosen)]
    index = {label: position for position, label in enumerate(classes)}
    labels = [index[file.partition("/")[0]] for file in files]
    return FileSplit(name, base, files, labels, classes)


def _drawn_sun397(base: Path, classes: Sequence[str], word: str) -> list[str]:
    """50 images of each class for training and 50 others for testing, drawn with `SEED`."""
    random = np.random.RandomState(SEED)
    files = []
    for label in classes:
        own = sorted(entry.name for entry in os.scandir(base / label) if entry.is_file())
        order = random.permutation(len(own))
        start = 0 if word == "train" else SUN397_IMAGES_A_CLASS
        chosen = order[start : start + SUN397_IMAGES_A_CLASS]
        files += [f"{label}/{own[index]}" for index in sorted(chosen)]
    return files


def _lines(path: Path) -> list[str]:
    """Lines that are neither empty nor comments, without the blanks around them."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
