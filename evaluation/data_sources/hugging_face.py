"""Data sets of Hugging Face's `datasets`: of the hub, a folder of save_to_disk, or files it knows.

hf:uoft-cs/cifar10          the hub, or what was downloaded of it before
hf:DIR                      save_to_disk's, or an image folder, parquet, webdataset, ...
hf:NAME:img:fine_label      columns that cannot be guessed, or another than would be
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.data_sources.hugging_face_columns import find_columns, read_labels
from evaluation.data_sources.hugging_face_split import RowSplit
from evaluation.data_sources.image_folder import FOLDERS
from evaluation.data_sources.splits_by_name import SplitsByName
from evaluation.errors import EvaluationError
from evaluation.splits import LabelledData, SplitName

SAVED = ("dataset_dict.json", "state.json")
"""Files that save_to_disk leaves in the folder of several splits, or of one."""
WORDS: Mapping[str, SplitName] = {
    **{word: split for split, words in FOLDERS.items() for word in words},
    "dev": "val",
}


def load_hugging_face(name: str) -> LabelledData:
    """A data set by its name or folder, with `:IMAGE_COLUMN:LABEL_COLUMN` if they are not found.

    A split without labels, as the test splits of some hub data sets, is left out.

    Raises:
        EvaluationError: no such data set, no split that is called train, val or test, columns that
            cannot be found; or `datasets` is not installed.
    """
    path, *columns = name.split(":")
    if not path or len(columns) not in (0, 2):
        raise EvaluationError(
            f"--data hf:{name}: it is hf:NAME_OR_DIR or hf:NAME_OR_DIR:IMAGE_COLUMN:LABEL_COLUMN."
        )
    tables = _by_split(path, _load(path))
    features = next(iter(tables.values())).features
    image_column, label_column = find_columns(path, features, *columns)
    labels, class_names = read_labels(path, tables, label_column)
    short = Path(path).name
    readers = {
        split: partial(RowSplit, f"{short} {split}", tables[split], image_column, of, class_names)
        for split, of in labels.items()
    }
    return SplitsByName(short, readers)


def _load(path: str) -> Any:
    """What `datasets` makes of a name or folder: one table, or several by name."""
    try:
        import datasets
    except ImportError:
        raise EvaluationError(
            f"--data hf:{path} needs the package datasets; install it: "
            "pip install 'online-synclr[datasets]'."
        ) from None
    folder = Path(path).expanduser()
    try:
        if any((folder / name).is_file() for name in SAVED):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if folder.exists() else path)
    except Exception as error:
        # Hub, file systems and readers of every format raise what they like.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EvaluationError(
            f"--data hf:{path} cannot be loaded ({reason}); name a folder of save_to_disk, of "
            "images <class>/<image> or of parquet files, or a data set of the hub, which needs "
            "internet the first time."
        ) from None


def _by_split(path: str, loaded: Any) -> dict[SplitName, Any]:
    """Tables by this project's names of splits; one table without a name is `train`."""
    if not isinstance(loaded, Mapping):
        return {"train": loaded}
    tables: dict[SplitName, Any] = {}
    for word, table in loaded.items():
        split = WORDS.get(str(word).lower())
        if split is not None and split not in tables:
            tables[split] = table
    if not tables:
        raise EvaluationError(
            f"--data hf:{path} has the splits {', '.join(map(str, loaded))}, none of which is a "
            "train, validation or test split; save one under such a name."
        )
    return tables
