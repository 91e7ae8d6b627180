"""An image folder: `<class>/<image>`, or so below train, val and test.

    DIR/train/cat/1.jpg, DIR/val/cat/2.jpg     splits; `val` may be `valid` or `validation`
    DIR/cat/1.jpg                              no splits: all of it is `train`

A class may have folders of its own below it. Names that begin with a dot are passed over.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from evaluation.data_sources.file_split import FileSplit
from evaluation.data_sources.images import is_image
from evaluation.data_sources.splits_by_name import ORDER, SplitsByName
from evaluation.errors import EvaluationError
from evaluation.splits import LabelledData, SplitName

FOLDERS: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""By split, the names its folder may have."""


def load_image_folder(folder: Path, name: str | None = None) -> LabelledData:
    """The splits of a folder.

    The classes are those of all splits together, in sorted order, so that a class which one split
    lacks shifts no label.

    Args:
        name: as tables show it; none: the folder's own.

    Raises:
        EvaluationError: no such folder, no images in it, or only one class.
    """
    name = name or folder.resolve().name
    if not folder.is_dir():
        raise EvaluationError(
            f"--data {folder}: there is no such folder; name a folder of images <class>/<image>, "
            "or check_set, fashion-mnist, torchvision:CLASS:DIR or hf:NAME."
        )
    found = {split: images_by_class(place) for split, place in _split_folders(folder).items()}
    classes = sorted({label for by_class in found.values() for label in by_class})
    if len(classes) < 2:
        raise EvaluationError(
            f"--data {folder} has {len(classes)} sub-folders with images, but two classes are the "
            "least: lay it out as <class>/<image>, or so below train, val and test."
        )
    readers = {
        split: partial(_split, f"{name} {split}", folder, by_class, classes)
        for split, by_class in found.items()
    }
    return SplitsByName(name, readers)


def images_by_class(folder: Path) -> dict[str, list[str]]:
    """Paths of the images below each sub-folder that has any, sorted; by the sub-folder's name."""
    images = {place.name: sorted(_images_below(place)) for place in _sub_folders(folder)}
    return {name: files for name, files in images.items() if files}


def _split(
    name: str, folder: Path, by_class: Mapping[str, list[str]], classes: list[str]
) -> FileSplit:
    files: list[str] = []
    labels: list[int] = []
    for index, label in enumerate(classes):
        own = by_class.get(label, [])
        files += [os.path.relpath(file, folder) for file in own]
        labels += [index] * len(own)
    return FileSplit(name, folder, files, labels, classes)


def _split_folders(folder: Path) -> dict[SplitName, Path]:
    """Where each split lies. A folder `train` that holds images itself is a class of that name."""
    places: dict[SplitName, Path] = {}
    for split in ORDER:
        there = [folder / name for name in FOLDERS[split] if _has_classes(folder / name)]
        if len(there) > 1:
            names = " and ".join(place.name for place in there)
            raise EvaluationError(
                f"--data {folder} has the folders {names}, which mean the same split; rename one."
            )
        if there:
            places[split] = there[0]
    return places or {"train": folder}


def _has_classes(folder: Path) -> bool:
    return any(next(_images_below(place), None) for place in _sub_folders(folder))


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    places = (place for place in folder.iterdir() if not place.name.startswith("."))
    return sorted(place for place in places if place.is_dir())


def _images_below(folder: Path) -> Iterator[str]:
    for place, below, files in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (os.path.join(place, file) for file in files if is_image(file))
