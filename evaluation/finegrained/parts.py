"""Features of the three parts that the protocol needs, of whatever splits a data set has.

    train, val, test   as they are
    train, test        a fifth of each class of train is held out as val
    train, val         val is the test part; a fifth of train is held out as val
    train              a fifth is held out as test, and a fifth of the rest as val

Shapes: N images, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.feature_sharing import raised_by_all
from evaluation.features import FeatureTable, extract_features
from evaluation.holdout import stratified_indices
from evaluation.splits import LabelledData, LabelledSplit, SplitName

HELD_OUT = 0.2
"""Share of each class; the authors' public code holds out a fifth, too, but regardless of class."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Tables of the same classes. note: how they were divided, where the data set left it open."""

    train: FeatureTable
    val: FeatureTable
    test: FeatureTable
    note: str

    @property
    def train_and_val(self) -> FeatureTable:
        """What the last fit is on."""
        return FeatureTable(
            torch.cat([self.train.features_ND, self.val.features_ND]),
            torch.cat([self.train.labels, self.val.labels]),
            self.train.class_names,
        )

    @property
    def several_classes(self) -> bool:
        """Whether an image may have several."""
        return self.train.labels.ndim == 2

    @property
    def num_images(self) -> dict[str, int]:
        """Of each part."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(table.labels) for name, table in parts.items()}


def extract_parts(backbone: FrozenBackbone, data: LabelledData, bench: Bench) -> Parts:
    """Every image of the data set once, then divided. Every rank calls it.

    Raises:
        EvaluationError: it has no train split, its splits have different classes, or too few
            images of each class to hold any out; or an image cannot be read. On all ranks.
    """
    with raised_by_all(bench):
        splits = _splits(data)
    tables = {name: extract_features(backbone, split, bench) for name, split in splits.items()}
    if len({table.labels.ndim for table in tables.values()}) > 1:
        raise EvaluationError(
            f"images of {data.name} have one class in one split and several in another; mend their "
            "labels."
        )
    return _divided(tables, bench.seed)


def _splits(data: LabelledData) -> dict[SplitName, LabelledSplit]:
    if "train" not in data.split_names:
        raise EvaluationError(
            f"{data.name} has no train split, only {', '.join(data.split_names)}; logistic "
            "regression needs one to be fitted on."
        )
    splits = {name: data.split(name) for name in data.split_names}
    if len({tuple(split.class_names) for split in splits.values()}) > 1:
        raise EvaluationError(
            f"the splits of {data.name} have different classes; give each the same ones."
        )
    return splits


def _divided(tables: Mapping[SplitName, FeatureTable], seed: int) -> Parts:
    """See the module's docstring."""
    train, notes = tables["train"], []
    if "test" in tables:
        test = tables["test"]
    elif "val" in tables:
        test = tables["val"]
        notes.append("val is the test part")
    else:
        train, test = _held_out(train, seed)
        notes.append(f"{HELD_OUT:.0%} of each class held out as the test part")
    if "val" in tables and "test" in tables:
        val = tables["val"]
    else:
        train, val = _held_out(train, seed)
        notes.append(f"{HELD_OUT:.0%} of each class of train held out as val")
    return Parts(train, val, test, "; ".join(notes))


def _held_out(table: FeatureTable, seed: int) -> tuple[FeatureTable, FeatureTable]:
    kept, held = stratified_indices(table.labels, HELD_OUT, seed)
    return _take(table, kept), _take(table, held)


def _take(table: FeatureTable, index: torch.Tensor) -> FeatureTable:
    return replace(table, features_ND=table.features_ND[index], labels=table.labels[index])
