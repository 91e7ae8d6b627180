"""The task: the nine in one go, what is missing, any other data set, and what it refuses."""

import argparse
from pathlib import Path

import pytest
import torch

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.finegrained import one_set, parts
from evaluation.finegrained.fit import Classifier, Fit
from evaluation.finegrained.l2_path import Trial
from evaluation.finegrained.parts import extract_parts
from evaluation.finegrained.protocol import Outcome
from evaluation.finegrained.settings import Settings
from evaluation.finegrained.suite import NINE
from evaluation.splits import LabelledData, SplitName
from evaluation.tasks import finegrained
from evaluation.tasks.finegrained import TASK
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone
from tests.torchvision_layouts import LAYOUTS

CPU = torch.device("cpu")


def _options(*argv: str, data: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    TASK.add_options(parser.add_argument_group("the task"))
    options = parser.parse_args(["--l2-values", "3", *argv])
    options.data = data
    return options


def _colours(*split_names: SplitName, several: bool = False) -> MemoryData:
    """Splits of different images."""
    sizes = {"train": 30, "val": 12, "test": 18}
    return MemoryData(
        {
            name: MemorySplit(sizes[name], name=f"colours {name}", several=several, seed=seed)
            for seed, name in enumerate(split_names)
        }
    )


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return tiny_backbone()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def bench(said: list[str]) -> Bench:
    return Bench(device=CPU, say=said.append)


def _serve(monkeypatch: pytest.MonkeyPatch, data: dict[str, LabelledData]) -> None:
    """Data sets by torchvision's name, or another."""

    def load(name: str) -> LabelledData:
        key = name.split(":")[1] if ":" in name else name
        if key not in data:
            raise EvaluationError(f"{key} is not there; get it.")
        return data[key]

    monkeypatch.setattr(one_set, "load_data", load)
    monkeypatch.setattr(finegrained, "load_data", load)


def _all_nine() -> dict[str, LabelledData]:
    return {
        one.source: _colours("train", "test", several=one.metric.several_classes) for one in NINE
    }


def test_nine_rows_and_their_mean(
    backbone: FrozenBackbone, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, _all_nine())
    *results, mean = TASK.run(backbone, _options("--data-root", "somewhere"), bench)
    metrics = {result.data: next(iter(result.metrics)) for result in results}
    assert metrics == {
        "aircraft": "mean_per_class",
        "cars": "top1",
        "dtd": "top1",
        "flowers": "mean_per_class",
        "pets": "mean_per_class",
        "sun397": "top1",
        "caltech101": "mean_per_class",
        "food101": "top1",
        "voc2007": "map_11point",
    }
    scores = [next(iter(result.metrics.values())) for result in results]
    assert mean.data == "mean of the nine"
    assert mean.metrics["mean"] == pytest.approx(sum(scores) / 9)
    assert {result.backbone for result in results} == {mean.backbone} == {"tiny"}


def test_what_is_missing_is_named_first_and_there_is_no_mean(
    backbone: FrozenBackbone, bench: Bench, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _all_nine()
    del data["DTD"], data["VOC2007"]
    _serve(monkeypatch, data)
    results = TASK.run(backbone, _options("--data-root", "somewhere"), bench)
    assert [result.data for result in results] == [
        one.name for one in NINE if one.name not in ("dtd", "voc2007")
    ]
    assert said[0] == "dtd left out: DTD is not there; get it."
    assert said[1] == "voc2007 left out: VOC2007 is not there; get it."
    assert said[-1] == "tiny: no mean of the nine without dtd, voc2007"


def test_one_damaged_set_costs_the_others_nothing(
    backbone: FrozenBackbone, bench: Bench, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _all_nine()
    data["StanfordCars"] = MemoryData({"train": MemorySplit(30, bad_at=7)})
    _serve(monkeypatch, data)
    options = _options("--data-root", "somewhere", "--only", "pets", "cars")
    assert [result.data for result in TASK.run(backbone, options, bench)] == ["pets"]
    assert any("cars left out: image 7 cannot be read" in line for line in said)


def test_some_of_the_nine_as_torchvision_lays_them_out(
    backbone: FrozenBackbone, bench: Bench, said: list[str], tmp_path: Path
) -> None:
    for name in ("OxfordIIITPet", "DTD", "Food101", "VOC2007"):
        LAYOUTS[name](tmp_path)
    results = TASK.run(backbone, _options("--data-root", str(tmp_path)), bench)
    assert [result.data for result in results] == ["dtd", "pets", "food101", "voc2007"]
    for result in results:
        (score,) = result.metrics.values()
        assert 0 <= score <= 1
    missing = [line.split(" left out: ")[0] for line in said if " left out: " in line]
    assert missing == ["aircraft", "cars", "flowers", "sun397", "caltech101"]


def test_none_of_the_nine(
    backbone: FrozenBackbone, bench: Bench, said: list[str], tmp_path: Path
) -> None:
    options = _options("--data-root", str(tmp_path), "--only", "cars", "pets")
    with pytest.raises(EvaluationError, match="cars, pets cannot be used"):
        TASK.run(backbone, options, bench)
    assert str(tmp_path / "stanford_cars") in said[0]


def test_another_data_set_and_how_it_was_divided(
    backbone: FrozenBackbone, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, {"mine": _colours("train")})
    (result,) = TASK.run(backbone, _options(data="mine"), bench)
    assert result.data == "colours"
    assert list(result.metrics) == ["top1"]
    assert result.details["num_images"] == {"train": 20, "val": 5, "test": 5}
    assert "held out as the test part" in result.details["division"]
    assert [trial["l2"] for trial in result.details["trials"]] == pytest.approx(
        [1e5, 0.316, 1e-6], rel=1e-2
    )
    (result,) = TASK.run(backbone, _options("--metric", "mean_per_class", data="mine"), bench)
    assert list(result.metrics) == ["mean_per_class"]


def test_a_fit_that_did_not_converge_is_said(
    backbone: FrozenBackbone, bench: Bench, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, {"mine": _colours("train", "val", "test")})
    (result,) = TASK.run(backbone, _options("--max-iterations", "1", data="mine"), bench)
    assert not result.details["trials"][-1]["converged"]
    assert any("fits did not converge" in line for line in said)
    said.clear()
    TASK.run(backbone, _options(data="mine"), bench)
    assert not any("converge" in line for line in said)


def _outcome(best: int) -> Outcome:
    """Of three penalties the one of that index is best."""
    trials = [
        Trial(l2=l2, score=0.5, gradient=0.0, iterations=1, evaluations=1, converged=True)
        for l2 in (1e5, 1.0, 1e-6)
    ]
    zero = torch.zeros(2, 2)
    final = Fit(Classifier(zero, zero[0]), 1.0, 0.1, 0.0, 1, 1, True)
    return Outcome(score=0.5, chosen=trials[best], trials=trials, final=final)


def test_a_penalty_at_the_end_of_the_range_is_said() -> None:
    assert one_set.remarks(_outcome(1), Settings()) == []
    (strongest,) = one_set.remarks(_outcome(0), Settings())
    (weakest,) = one_set.remarks(_outcome(2), Settings())
    assert "1.0e+05, is the strongest tried" in strongest
    assert "1.0e-06, is the weakest tried" in weakest


@pytest.mark.parametrize(
    ("argv", "data", "sentence"),
    [
        ([], None, "give --data-root DIR"),
        (["--data-root", "x"], "mine", "not both"),
        (["--data-root", "x", "--metric", "top1"], None, "has its own"),
        (["--only", "cars"], "mine", "goes with --data-root"),
        (["--l2-values", "1"], "mine", "--l2-values=1"),
        (["--metric", "map_11point"], "mine", "choose top1 or mean_per_class"),
        (["--metric", "top1"], "several", "choose map_11point"),
        ([], "elsewhere", "elsewhere is not there"),
    ],
)
def test_what_is_refused(
    argv: list[str],
    data: str | None,
    sentence: str,
    backbone: FrozenBackbone,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _serve(monkeypatch, {"mine": _colours("train"), "several": _colours("train", several=True)})
    with pytest.raises(EvaluationError, match=sentence):
        TASK.run(backbone, _options(*argv, data=data), bench)


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "val", "test"), {"train": 30, "val": 12, "test": 18}),
        (("train", "test"), {"train": 25, "val": 5, "test": 18}),
        (("train", "val"), {"train": 25, "val": 5, "test": 12}),
        (("train",), {"train": 20, "val": 5, "test": 5}),
    ],
)
def test_every_image_is_in_one_part_and_read_once(
    names: tuple[SplitName, ...], sizes: dict[str, int], backbone: FrozenBackbone, bench: Bench
) -> None:
    data = _colours(*names)
    made = extract_parts(backbone, data, bench)
    assert made.num_images == sizes
    assert (made.note == "") == (len(names) == 3)
    tables = made.train, made.val, made.test
    features_ND = torch.cat([table.features_ND for table in tables])
    assert len(features_ND.unique(dim=0)) == sum(sizes.values())
    for table in tables:
        assert set(table.labels.tolist()) == {0, 1, 2}
    whole = parts.extract_features(backbone, data.split("train"), bench)
    for feature_D, label in zip(made.train.features_ND, made.train.labels, strict=True):
        (place,) = (whole.features_ND == feature_D).all(1).nonzero()
        assert whole.labels[place] == label


def test_splits_that_do_not_fit_together_are_refused(
    backbone: FrozenBackbone, bench: Bench
) -> None:
    with pytest.raises(EvaluationError, match="no train split"):
        extract_parts(backbone, MemoryData({"test": MemorySplit(6)}), bench)
    other = MemorySplit(6, num_classes=2, name="other")
    with pytest.raises(EvaluationError, match="different classes"):
        extract_parts(backbone, MemoryData({"train": MemorySplit(9), "test": other}), bench)
    mixed = MemoryData({"train": MemorySplit(9), "test": MemorySplit(9, several=True)})
    with pytest.raises(EvaluationError, match="one class in one split and several"):
        extract_parts(backbone, mixed, bench)
