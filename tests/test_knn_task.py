"""`--task knn`: agreement with scikit-learn, with a bank and without."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from evaluation.errors import EvaluationError
from evaluation.features import extract_features
from evaluation.splits import SplitName
from evaluation.tasks import knn as knn_task
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone
from tests.knn_judging import BENCH, data, judge, options
from trainer.evaluation import knn


def reference(neighbours: int) -> KNeighborsClassifier:
    return KNeighborsClassifier(
        neighbours,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / knn.TEMPERATURE),
    )


@pytest.mark.parametrize(
    ("names", "queries"), [(("train", "val", "test"), "test"), (("train", "val"), "val")]
)
def test_a_bank_and_queries_agree_with_scikit_learn(
    names: tuple[SplitName, ...], queries: SplitName
) -> None:
    source = data(*names)
    result = judge(source)
    bank = extract_features(tiny_backbone(), source.split("train"), BENCH)
    asked = extract_features(tiny_backbone(), source.split(queries), BENCH)
    for neighbours in (10, 20):
        fitted = reference(neighbours).fit(bank.features_ND.numpy(), bank.labels.numpy())
        expected = fitted.score(asked.features_ND.numpy(), asked.labels.numpy())
        assert result.metrics[f"top1_k{neighbours}"] == pytest.approx(expected)
        assert 0.2 < expected < 1, "neither chance nor perfect: it could differ"
    assert result.details["query_split"] == queries
    assert result.details["num_query_images"] == len(source.split(queries))


def test_one_split_is_judged_leave_one_out() -> None:
    source = data("train")
    result = judge(source, "--neighbours", "3", "7", "1")
    table = extract_features(tiny_backbone(), source.split("train"), BENCH)
    features, labels = table.features_ND.numpy(), table.labels.numpy()
    assert list(result.metrics) == ["top1_k3", "top1_k7", "top1_k1"]
    for neighbours in (3, 7, 1):
        found = cross_val_predict(reference(neighbours), features, labels, cv=LeaveOneOut())
        assert result.metrics[f"top1_k{neighbours}"] == pytest.approx((found == labels).mean())


def test_chunks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(50, 4, generator=generator), torch.randn(23, 4, generator=generator)
    labels = torch.randint(0, 5, (50,), generator=generator)
    whole = knn.predict(bank, labels, queries, neighbours=(5, 9))
    monkeypatch.setattr(knn, "CHUNK_COSINES", 50 * 4)
    assert torch.equal(whole, knn.predict(bank, labels, queries, neighbours=(5, 9)))
    assert torch.equal(
        knn.predict(bank, labels, queries, neighbours=(9,)),
        knn.predict(bank, labels, queries, neighbours=(5, 9))[:, 1:],
    )
    assert knn.predict(bank, labels, queries[:0], neighbours=(5,)).shape == (0, 1)


def test_some_rows_are_judged_as_among_all() -> None:
    generator = torch.Generator().manual_seed(2)
    bank = torch.randn(50, 4, generator=generator)
    labels = torch.randint(0, 5, (50,), generator=generator)
    rows = torch.tensor([40, 3, 17])
    alone = knn.predict_leave_one_out(bank, labels, neighbours=7, queries_Q=rows)
    among_all = knn.predict_leave_one_out(bank, labels, neighbours=7)
    assert torch.equal(alone, among_all[rows])
    count = knn.num_right(bank, labels, neighbours=7, queries_Q=rows)
    assert int(count) == int((among_all[rows] == labels[rows]).sum())
    bank[0, 0] = torch.nan
    assert knn.num_right(bank, labels, neighbours=7, queries_Q=rows).isnan()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--neighbours", "0"], "--neighbours=0"),
        (["--neighbours", "10", "90"], "only 89 to be judged by"),
        (["--temperature", "0"], "--temperature=0"),
    ],
)
def test_wrong_options_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        judge(data("train"), *words)


def test_wrong_data_is_one_sentence() -> None:
    several = MemoryData({"train": MemorySplit(30, several=True)})
    with pytest.raises(EvaluationError, match="--task finegrained"):
        judge(several)
    apart = MemoryData({"train": MemorySplit(30, 3), "test": MemorySplit(30, 4)})
    with pytest.raises(EvaluationError, match="different classes"):
        judge(apart)
    missing = options()
    missing.data = None
    with pytest.raises(EvaluationError, match="needs --data"):
        knn_task.TASK.run(tiny_backbone(), missing, BENCH)
