"""`--task linear` whole: options, features of a small backbone, probe, result."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.linear import judge, training
from evaluation.results import Result
from evaluation.tasks import linear
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone
from tests.linear_parts import bench

SPLITS = {
    "train": MemorySplit(120, num_classes=7, name="colours (train)"),
    "val": MemorySplit(40, num_classes=7, name="colours (val)", seed=1),
    "test": MemorySplit(50, num_classes=7, name="colours (test)", seed=2),
}


def _run(
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    data: MemoryData | None = None,
    here: Bench | None = None,
    backbone: FrozenBackbone | None = None,
) -> Result:
    monkeypatch.setattr(linear, "load_data", lambda name: data or MemoryData(SPLITS))
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="colours")
    linear.TASK.add_options(parser.add_argument_group("linear"))
    options = parser.parse_args([*arguments])
    (result,) = linear.TASK.run(backbone or tiny_backbone(), options, here or bench())
    return result


def test_the_defaults_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch)
    details = result.details
    assert (result.backbone, result.task, result.data) == ("tiny", "linear", "colours")
    assert (details["epochs"], details["batch_images"], details["momentum"]) == (90, 120, 0.9)
    assert details["chosen_on"] == {"name": "colours (val)", "num_images": 40}
    assert details["reported_on"] == {"name": "colours (test)", "num_images": 50}
    heads = details["learning_rates"]
    assert [head["base"] for head in heads] == list(linear.BASE_LEARNING_RATES)
    best = max(heads, key=lambda head: head["top1_where_chosen"])
    assert details["best_learning_rate"] == best["base"]
    assert result.metrics == {"top1": best["top1"], "top5": best["top5"]}
    # Three colours tell seven classes apart no further: by chance it would be a seventh.
    assert result.metrics["top1"] > 0.25
    assert result.metrics["top5"] > 0.6
    losses = [head["train_loss"] for head in heads]
    assert losses == sorted(losses, reverse=True)
    json.dumps(details, allow_nan=False)


def test_with_augmentation_the_images_are_read_in_each_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = MemorySplit(60, num_classes=3)
    data = MemoryData({"train": train, "test": MemorySplit(30, num_classes=3, seed=1)})
    arguments = ("--augment", "--epochs", "3", "--train-batch", "20")
    result = _run(monkeypatch, *arguments, data=data)
    assert result.task == "linear, augmented"
    assert result.details["batch_norm"] == "batch statistics"
    assert "optimistic" in result.details["note"]
    assert sorted(train.reads) == sorted(list(range(60)) * 3)
    assert list(result.metrics) == ["top1"]
    assert result.metrics == _run(monkeypatch, *arguments, data=data).metrics


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every step that is trained."""
    done: list[int] = []
    update = training._update

    def counted(*arguments: Any) -> None:
        done.append(1)
        update(*arguments)

    monkeypatch.setattr(training, "_update", counted)
    return done


SHORT = ("--epochs", "2", "--train-batch", "60")


@pytest.mark.parametrize("more", [[], ["--augment"]])
def test_what_was_trained_once_is_not_trained_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: list[int], more: list[str]
) -> None:
    here = bench(cache_dir=tmp_path)
    first = _run(monkeypatch, *SHORT, *more, here=here)
    assert len(steps) == 4
    assert _run(monkeypatch, *SHORT, *more, here=here) == first
    assert len(steps) == 4


@pytest.mark.parametrize(
    "more", [["--epochs", "1"], ["--train-batch", "40"], ["--learning-rates", "0.1"]]
)
def test_another_setting_is_another_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: list[int], more: list[str]
) -> None:
    here = bench(cache_dir=tmp_path)
    _run(monkeypatch, *SHORT, here=here)
    _run(monkeypatch, *SHORT, *more, here=here)
    assert len(steps) > 4


def test_another_backbone_is_another_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: list[int]
) -> None:
    here = bench(cache_dir=tmp_path)
    _run(monkeypatch, *SHORT, here=here)
    _run(monkeypatch, *SHORT, here=here, backbone=tiny_backbone(seed=1))
    assert len(steps) == 8


def test_nothing_is_read_twice_for_a_choice_on_what_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    extract = judge.extract_features

    def extract_and_note(backbone, split, bench):  # type: ignore[no-untyped-def]
        asked.append(split.name)
        return extract(backbone, split, bench)

    monkeypatch.setattr(judge, "extract_features", extract_and_note)
    _run(monkeypatch, "--epochs", "1", "--choose-on", "test")
    assert asked == ["colours (test)", "colours (train)"]


@pytest.mark.parametrize(
    ("arguments", "data", "words"),
    [
        (["--epochs", "0"], None, "--epochs=0"),
        (["--learning-rates", "0.1", "1e41"], None, None),
        (["--learning-rates", "1e41"], None, "diverged; give lower --learning-rates"),
        ([], MemoryData({"train": MemorySplit(20, several=True)}), "--task finegrained"),
        ([], MemoryData({"train": MemorySplit(0), "test": MemorySplit(9)}), "train"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    data: MemoryData | None,
    words: str | None,
) -> None:
    if words is None:
        heads = _run(monkeypatch, *arguments, data=data).details["learning_rates"]
        assert [head["top1"] is None for head in heads] == [False, True]
        return
    with pytest.raises(EvaluationError, match=words):
        _run(monkeypatch, *arguments, data=data)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (["0.0000001", "0.1", "1e41"], "1e-07: "),
        (["0.1", "1e41"], "1e+41: –; best on colours (test): 0.1, the lowest: try lower ones"),
        (["0.0000001", "0.1"], "best on colours (test): 0.1, the highest: try higher ones"),
    ],
)
def test_people_are_told_all_learning_rates(
    monkeypatch: pytest.MonkeyPatch, rates: list[str], words: str
) -> None:
    said: list[str] = []
    here = replace(bench(), say=said.append)
    arguments = ["--choose-on", "test", "--epochs", "20", "--learning-rates", *rates]
    details = _run(monkeypatch, *arguments, here=here).details
    assert words in said[-1]
    assert details["best_is_at_the_edge"] == ("try" in words) == ("try" in said[-1])


def test_data_must_be_named() -> None:
    options = argparse.Namespace(data=None, learning_rates=[0.1], epochs=1, train_batch=2)
    with pytest.raises(EvaluationError, match="--task linear needs --data"):
        linear.TASK.run(tiny_backbone(), options, bench())
