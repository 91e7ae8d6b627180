"""Data sets that torchvision.datasets knows, read where its classes expect them.

Its classes differ in how they are asked for a split, and some have none: each has a row in `TABLE`.
Nothing is downloaded. Files and labels are taken from torchvision where its class gives them
without decoding an image, otherwise from the annotations (`evaluation.data_sources.annotated`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evaluation.data_sources.annotated import read_caltech101, read_pets, read_sun397, read_voc2007
from evaluation.data_sources.array_split import ArraySplit
from evaluation.data_sources.file_split import FileSplit
from evaluation.data_sources.splits_by_name import SplitsByName
from evaluation.errors import EvaluationError
from evaluation.splits import LabelledData, LabelledSplit, SplitName

Reader = Callable[[str, Path, str], LabelledSplit]
"""(name of the split for tables, DIR, the source's own word for the split) -> split."""

TRAIN_TEST: Mapping[SplitName, str] = {"train": "train", "test": "test"}
ALL_THREE: Mapping[SplitName, str] = {"train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Source:
    """One class of torchvision.datasets.

    read: one split. needed: what must be there, below DIR. splits: this project's word -> the
    source's. downloads: what torchvision is called with to get all of it; none: the class of the
    row's name. by_hand: how to get what torchvision does not download, a clause.
    """

    read: Reader
    needed: tuple[str, ...]
    splits: Mapping[SplitName, str]
    downloads: tuple[str, ...] = ()
    by_hand: str = ""


def load_torchvision(class_name: str, folder: Path) -> LabelledData:
    """A data set of `TABLE` whose files lie below `folder`.

    Raises:
        EvaluationError: not in `TABLE`, or its files are not there; it says how to get them.
    """
    source = TABLE.get(class_name)
    if source is None:
        raise EvaluationError(
            f"--data torchvision:{class_name}: it can be one of {', '.join(TABLE)}; lay any other "
            "out as an image folder <class>/<image>."
        )
    for needed in source.needed:
        if not (folder / needed).exists():
            raise EvaluationError(
                f"--data torchvision:{class_name}:{folder}: {folder / needed} is not there; "
                f"{how_to_get(class_name, folder)}."
            )
    readers = {
        split: partial(_read, class_name, split, folder, word)
        for split, word in source.splits.items()
    }
    return SplitsByName(class_name, readers)


def how_to_get(class_name: str, folder: Path) -> str:
    """What brings a data set of `TABLE` to `folder`, a clause."""
    source = TABLE[class_name]
    if source.by_hand:
        return source.by_hand
    downloads = source.downloads or (f"{class_name}(root=DIR, download=True)",)
    calls = "; ".join(f"datasets.{call}" for call in downloads).replace("DIR", repr(str(folder)))
    return (
        "where there is internet, get it with: "
        f'python -c "from torchvision import datasets; {calls}"'
    )


def _read(class_name: str, split: SplitName, folder: Path, word: str) -> LabelledSplit:
    """One split; whatever is wrong with its files becomes one sentence."""
    try:
        return TABLE[class_name].read(f"{class_name} {split}", folder, word)
    except EvaluationError:
        raise
    except (ImportError, RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if "scipy" in reason.lower():
            raise EvaluationError(
                f"{class_name} keeps its labels in MATLAB files, which scipy reads; install it: "
                "pip install scipy."
            ) from None
        raise EvaluationError(
            f"the {split} split of {class_name} below {folder} cannot be read ({reason}); "
            f"{how_to_get(class_name, folder)}."
        ) from None


def _by_loader(class_name: str) -> Reader:
    """Of a class with `split=` and `loader=`: a loader that returns the path decodes nothing."""

    def read(name: str, folder: Path, word: str) -> LabelledSplit:
        from torchvision import datasets

        made = getattr(datasets, class_name)(folder, split=word, loader=str)
        items = [made[index] for index in range(len(made))]
        # ImageNet's classes are tuples of synonyms.
        classes = [one if isinstance(one, str) else ", ".join(one) for one in made.classes]
        files = [str(Path(path).relative_to(folder)) for path, _ in items]
        return FileSplit(name, folder, files, [int(label) for _, label in items], classes)

    return read


def _in_memory(class_name: str) -> Reader:
    """Of a class with `train=` that holds all images as one array."""

    def read(name: str, folder: Path, word: str) -> LabelledSplit:
        from torchvision import datasets

        made = getattr(datasets, class_name)(str(folder), train=word == "train")
        return ArraySplit(name, made.data, made.targets, made.classes)

    return read


TABLE: Mapping[str, Source] = {
    "FGVCAircraft": Source(
        _by_loader("FGVCAircraft"), ("fgvc-aircraft-2013b/data/images",), ALL_THREE
    ),
    "StanfordCars": Source(
        _by_loader("StanfordCars"),
        (
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test_annos_withlabels.mat",
            "stanford_cars/cars_test",
        ),
        TRAIN_TEST,
        by_hand="its origin is offline and torchvision downloads it no longer: put devkit/, "
        "cars_train/, cars_test/ and cars_test_annos_withlabels.mat of a copy into stanford_cars "
        "there",
    ),
    "DTD": Source(_by_loader("DTD"), ("dtd/dtd/labels", "dtd/dtd/images"), ALL_THREE),
    "Flowers102": Source(
        _by_loader("Flowers102"),
        ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        ALL_THREE,
    ),
    "OxfordIIITPet": Source(
        read_pets,
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations/trainval.txt"),
        {"train": "trainval", "test": "test"},
    ),
    "SUN397": Source(read_sun397, ("SUN397/ClassName.txt",), TRAIN_TEST),
    "Caltech101": Source(read_caltech101, ("caltech101/101_ObjectCategories",), TRAIN_TEST),
    "Food101": Source(_by_loader("Food101"), ("food-101/meta", "food-101/images"), TRAIN_TEST),
    "VOC2007": Source(
        read_voc2007,
        ("VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/ImageSets/Main"),
        ALL_THREE,
        downloads=(
            "VOCDetection(root=DIR, year='2007', image_set='trainval', download=True)",
            "VOCDetection(root=DIR, year='2007', image_set='test', download=True)",
        ),
    ),
    "CIFAR10": Source(_in_memory("CIFAR10"), ("cifar-10-batches-py",), TRAIN_TEST),
    "CIFAR100": Source(_in_memory("CIFAR100"), ("cifar-100-python",), TRAIN_TEST),
    "ImageNet": Source(
        _by_loader("ImageNet"),
        # Without these torchvision would begin to unpack archives into DIR.
        ("meta.bin", "train", "val"),
        {"train": "train", "val": "val"},
        by_hand="put the archives of https://image-net.org there and run "
        "torchvision.datasets.ImageNet on them for both splits; or, where train/ and val/ are "
        "folders of classes already, name the folder itself with --data",
    ),
}
