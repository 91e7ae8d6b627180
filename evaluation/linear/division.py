"""Which images a probe trains on, which choose its learning rate, and which are reported."""

from dataclasses import dataclass
from typing import Literal, get_args

from evaluation.errors import EvaluationError
from evaluation.holdout import holdout
from evaluation.splits import LabelledData, LabelledSplit

ChooseOn = Literal["auto", "val", "test", "train-holdout"]
CHOOSE_ON: tuple[ChooseOn, ...] = get_args(ChooseOn)
CHOICE_SHARE = 0.1
"""Of each class's training images: those that choose the learning rate, with train-holdout."""
REPORT_SHARE = 0.2
"""Of each class's images: those that are reported, where there is nothing but a training split."""


@dataclass(frozen=True)
class Division:
    """`choose` and `report` may be the same object. note: what a reader must know of the choice."""

    train: LabelledSplit
    choose: LabelledSplit
    report: LabelledSplit
    note: str


def divide(data: LabelledData, choose_on: ChooseOn, seed: int) -> Division:
    """The parts of a data set.

    Reported is the test split; without one the validation split; without either a fifth of the
    images, which are not trained on. The learning rate is chosen on the validation split if that
    is not the one reported, else on what is reported, as the paper does on ImageNet.

    Raises:
        EvaluationError: a split is missing, or the splits have other classes.
    """
    train, report = _train_and_report(data, seed)
    choose = report
    if choose_on == "val" and "val" not in data.split_names:
        raise EvaluationError(
            f"--choose-on val, but {data.name} has no val split; give test or train-holdout."
        )
    if choose_on == "test" and "test" not in data.split_names and len(data.split_names) > 1:
        raise EvaluationError(
            f"--choose-on test, but {data.name} has no test split; give val or train-holdout."
        )
    if choose_on == "train-holdout":
        train, choose = holdout(train, CHOICE_SHARE, seed)
    elif choose_on != "test" and {"val", "test"} <= set(data.split_names):
        choose = data.split("val")
    for split in (choose, report):
        _check_classes(train, split)
    return Division(train, choose, report, _note(choose, report))


def _train_and_report(data: LabelledData, seed: int) -> tuple[LabelledSplit, LabelledSplit]:
    names = data.split_names
    if "train" not in names:
        raise EvaluationError(
            f"{data.name} has no train split, which a linear probe needs; name another --data."
        )
    train = data.split("train")
    if "test" in names:
        return train, data.split("test")
    if "val" in names:
        return train, data.split("val")
    return holdout(train, REPORT_SHARE, seed)


def _check_classes(train: LabelledSplit, other: LabelledSplit) -> None:
    if list(train.class_names) != list(other.class_names):
        raise EvaluationError(
            f"{other.name} has other classes than {train.name} ({len(other.class_names)} and "
            f"{len(train.class_names)}, or in another order); name data whose splits have the same."
        )


def _note(choose: LabelledSplit, report: LabelledSplit) -> str:
    if choose is report:
        return (
            f"the best learning rate was chosen on {report.name}, which is reported as well: the "
            "paper's way, and optimistic"
        )
    return f"the best learning rate was chosen on {choose.name}, the figures are of {report.name}"
