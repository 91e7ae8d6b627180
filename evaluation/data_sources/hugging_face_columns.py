"""Which columns of a Hugging Face table are the image and the label, and what the labels say.

Shapes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evaluation.errors import EvaluationError
from evaluation.splits import SplitName

LABEL_NAMES = ("label", "labels")
"""Columns that are taken for the label where none is of type `ClassLabel`."""
UNLABELLED = -1
"""What the hub's test splits without labels have."""


def find_columns(
    path: str, features: Mapping[str, Any], image: str = "", label: str = ""
) -> tuple[str, str]:
    """The image's and the label's column: those named, else the only ones of their type.

    Raises:
        EvaluationError: there is no such column, or more than one could be it.
    """
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if _class_label(kind) is not None]
    labels = labels or [name for name in LABEL_NAMES if name in features]
    return (
        _choose(path, features, "image", image, images),
        _choose(path, features, "label", label, labels),
    )


def read_labels(
    path: str, tables: Mapping[SplitName, Any], column: str
) -> tuple[dict[SplitName, torch.Tensor], Sequence[str]]:
    """Labels of every split that has them, int64 (N,) or bool (N, C), and the classes' names.

    Columns of numbers or texts without a `ClassLabel` have as classes their values in all splits.

    Raises:
        EvaluationError: some rows of a split have no label.
    """
    values = {
        split: table.with_format(None).select_columns([column])[:][column]
        for split, table in tables.items()
    }
    labelled = {
        split: rows for split, rows in values.items() if any(row != UNLABELLED for row in rows)
    }
    kind = next(iter(tables.values())).features[column]
    known = _class_label(kind)
    several = any(isinstance(rows[0], list) for rows in labelled.values())
    distinct = sorted({one for rows in labelled.values() for row in rows for one in _each(row)})
    if not labelled or (known is None and not all(type(v) is type(distinct[0]) for v in distinct)):
        raise EvaluationError(f"--data hf:{path}: the column {column} holds no labels.")
    if known is not None and UNLABELLED in distinct:
        raise EvaluationError(
            f"--data hf:{path}: some rows of the column {column} have no label; filter them out."
        )
    class_names = known.names if known is not None else [str(value) for value in distinct]
    codes = {value: code for code, value in enumerate(distinct)}
    if known is not None:
        codes = {code: code for code in range(len(class_names))}
    as_tensor = _multi_hot if several else _indices
    return {split: as_tensor(rows, codes) for split, rows in labelled.items()}, class_names


def _each(row: Any) -> Sequence[Any]:
    return row if isinstance(row, list) else (row,)


def _indices(rows: Sequence[Any], codes: Mapping[Any, int]) -> torch.Tensor:
    return torch.from_numpy(np.array([codes[row] for row in rows], dtype=np.int64))


def _multi_hot(rows: Sequence[Sequence[Any]], codes: Mapping[Any, int]) -> torch.Tensor:
    labels_NC = torch.zeros(len(rows), len(codes), dtype=torch.bool)
    for index, row in enumerate(rows):
        labels_NC[index, [codes[value] for value in row]] = True
    return labels_NC


def _class_label(kind: Any) -> Any:
    """The `ClassLabel` that a feature is or lists; None: it is none."""
    import datasets

    inner = getattr(kind, "feature", kind)
    return inner if isinstance(inner, datasets.ClassLabel) else None


def _choose(
    path: str, features: Mapping[str, Any], what: str, named: str, found: Sequence[str]
) -> str:
    if named and named in features:
        return named
    if not named and len(found) == 1:
        return found[0]
    problem = f"has no column {named}" if named else f"has {len(found)} columns for the {what}"
    raise EvaluationError(
        f"--data hf:{path} {problem} among {', '.join(features)}; name both: "
        f"hf:{path}:IMAGE_COLUMN:LABEL_COLUMN."
    )
