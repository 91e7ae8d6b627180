"""A folder of labelled pictures: which files, and which class each has."""

from dataclasses import dataclass
from pathlib import Path

from online_synclr.config import ConfigError
from online_synclr.config.schema import BUNDLED_CHECK_SET
from online_synclr.paths import CHECK_SET_DIR

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
VAL_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class LabelledFiles:
    """Files in sorted order of class and name; `labels` are indices into the folder's classes."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class LabelledFolder:
    """`classes`: names by index. `val`: none where the folder has no such part."""

    classes: tuple[str, ...]
    train: LabelledFiles
    val: LabelledFiles | None


def read_folder(name: str) -> LabelledFolder:
    """The folder of `trainer.supervised.folder`: <class>/<image>, or so below train/ and val/.

    Pictures may lie deeper below their class. Nothing but names is read.

    Raises:
        ConfigError: it has fewer than two classes, or val/ has others than train/.
    """
    root = CHECK_SET_DIR if name == BUNDLED_CHECK_SET else Path(name)
    train = root / "train"
    if not train.is_dir():
        classes, files = _read(root, None)
        return LabelledFolder(classes, files, None)
    classes, files = _read(train, None)
    found = [root / one for one in VAL_NAMES if (root / one).is_dir()]
    return LabelledFolder(classes, files, _read(found[0], classes)[1] if found else None)


def _read(folder: Path, known: tuple[str, ...] | None) -> tuple[tuple[str, ...], LabelledFiles]:
    by_class = {one.name: _pictures(one) for one in sorted(folder.iterdir()) if one.is_dir()}
    by_class = {name: paths for name, paths in by_class.items() if paths}
    if len(by_class) < 2 and known is None:
        raise ConfigError(
            f"trainer.supervised.folder: {folder} has pictures in {len(by_class)} sub-folders "
            "named after their class, and needs two or more."
        )
    classes = known or tuple(by_class)
    strangers = sorted(set(by_class) - set(classes))
    if strangers or not by_class:
        other = f"a class {strangers[0]} that train/ has not" if strangers else "no pictures"
        raise ConfigError(f"trainer.supervised.folder: {folder} has {other}.")
    pairs = [(path, classes.index(name)) for name, paths in by_class.items() for path in paths]
    return classes, LabelledFiles(tuple(p for p, _ in pairs), tuple(label for _, label in pairs))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
