"""The heads of a linear probe: against torch's own parts, scikit-learn, and each alone."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, top_k_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from evaluation.errors import EvaluationError
from evaluation.features import FeatureTable
from evaluation.linear.accuracy import Accuracy, measure_accuracy
from evaluation.linear.norm import FeatureNorm
from evaluation.linear.order import epoch_batches
from evaluation.linear.probe import Probe
from evaluation.linear.protocol import BASE_LEARNING_RATES, Protocol
from tests.linear_parts import StatisticsSource, bench, close, clusters, train

SMALL = Protocol(learning_rates=(0.02, 0.1, 0.5), epochs=4, batch_images=30)


def test_the_protocol_is_the_papers() -> None:
    protocol = Protocol()
    assert (protocol.epochs, protocol.batch_images) == (90, 1024)
    assert len(protocol.learning_rates) == 9
    assert protocol.peak_learning_rates == tuple(4 * rate for rate in BASE_LEARNING_RATES)


@pytest.mark.parametrize("exact", [True, False])
def test_heads_learn_what_separate_torch_classifiers_learn(exact: bool) -> None:
    table = clusters(100)
    probe = train(table, SMALL, bench(), exact=exact)
    for head, peak in enumerate(SMALL.peak_learning_rates):
        linear, norm = _torchs_own(table, peak, exact=exact)
        assert close(probe.heads.weight_HCD[head], linear.weight)
        assert close(probe.heads.bias_HC[head], linear.bias)
        if not exact:
            assert close(probe.norm.mean_D, norm.running_mean)
            assert close(probe.norm.variance_D, norm.running_var)


def _torchs_own(
    table: FeatureTable, peak: float, *, exact: bool
) -> tuple[nn.Linear, nn.BatchNorm1d]:
    """One head as the public code trains it, with torch's own parts."""
    dims = table.features_ND.shape[1]
    features = table.features_ND
    if exact:
        features = torch.from_numpy(StandardScaler().fit_transform(features.numpy()))
    norm = nn.BatchNorm1d(dims, affine=False, eps=1e-6)
    linear = nn.Linear(dims, len(table.class_names))
    start = Probe(FeatureNorm(dims, exact=True), len(table.class_names), SMALL, bench()).heads
    linear.load_state_dict({"weight": start.weight_HCD[0], "bias": start.bias_HC[0]})
    optimizer = torch.optim.SGD(linear.parameters(), lr=peak, momentum=0.9)
    steps = SMALL.epochs * (len(features) // SMALL.batch_images)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0)
    for epoch in range(SMALL.epochs):
        for index in epoch_batches(len(features), SMALL, bench(), epoch):
            batch = features[index] if exact else norm(features[index])
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(batch), table.labels[index]).backward()
            optimizer.step()
            scheduler.step()
    return linear, norm


@pytest.mark.parametrize("exact", [True, False])
def test_a_head_learns_the_same_alone(exact: bool) -> None:
    table = clusters(300, classes=7, spread=3.0)
    together = Protocol(epochs=5, batch_images=64)
    probe = train(table, together, bench(), exact=exact)
    for head, rate in enumerate(together.learning_rates):
        alone = train(table, Protocol((rate,), epochs=5, batch_images=64), bench(), exact=exact)
        assert close(probe.heads.weight_HCD[head], alone.heads.weight_HCD[0])
        assert close(probe.heads.bias_HC[head], alone.heads.bias_HC[0])
        assert close(probe.loss_H[head], alone.loss_H[0])


def test_reaches_the_minimum_that_scikit_learn_finds() -> None:
    """Clusters that overlap, so that the minimum is one place: its loss and its predictions."""
    table = clusters(400, spread=2.5)
    reference = _scikit_learn(table)
    best_loss = log_loss(table.labels.numpy(), reference.predict_proba(_standard(table)))
    probe = train(table, Protocol(epochs=400, batch_images=400), bench())
    normalised = probe.norm.evaluate(table.features_ND)
    losses = probe.heads.summed_loss(normalised, table.labels) / 400
    best = int(losses.argmin())
    assert best_loss > 0.05
    assert losses[best].item() == pytest.approx(best_loss, abs=1e-3)
    logits = probe.heads(normalised)[:, best]
    assert np.mean(logits.argmax(1).numpy() == reference.predict(_standard(table))) > 0.99


def test_separates_what_scikit_learn_separates() -> None:
    table, test = clusters(300, spread=0.4), clusters(200, spread=0.4, seed=1)
    reference = _scikit_learn(table)
    assert reference.score(_standard(table), table.labels.numpy()) == 1.0
    probe = train(table, Protocol().fitted(300, 1), bench())
    assert max(_shares(measure_accuracy(probe, table, bench()))) == 1.0
    expected = reference.score(_standard(test, like=table), test.labels.numpy())
    assert max(_shares(measure_accuracy(probe, test, bench()))) >= expected - 0.01


def _scikit_learn(table: FeatureTable) -> LogisticRegression:
    return LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(
        _standard(table), table.labels.numpy()
    )


def _standard(table: FeatureTable, like: FeatureTable | None = None) -> np.ndarray:
    scaler = StandardScaler().fit((like or table).features_ND.numpy())
    return np.asarray(scaler.transform(table.features_ND.numpy()))


def _shares(accuracy: Accuracy) -> list[float]:
    return [share for share in accuracy.top1 if share is not None]


@pytest.mark.parametrize("exact", [True, False])
def test_a_killed_probe_goes_on_with_the_epoch_it_was_in(tmp_path: Path, exact: bool) -> None:
    table, here = clusters(100), bench(cache_dir=tmp_path)
    whole = train(table, SMALL, bench(), exact=exact)
    killed = StatisticsSource(table, SMALL, here, stop_in_epoch=2)
    with pytest.raises(KeyboardInterrupt):
        train(table, SMALL, here, exact=exact, source=killed)
    rest = StatisticsSource(table, SMALL, here)
    resumed = train(table, SMALL, here, exact=exact, source=rest)
    assert (killed.epochs, rest.epochs) == ([0, 1, 2], [2, 3])
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    done = StatisticsSource(table, SMALL, here)
    again = train(table, SMALL, here, exact=exact, source=done)
    assert done.epochs == []
    assert torch.equal(again.heads.weight_HCD, whole.heads.weight_HCD)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_file_is_said_and_not_used(tmp_path: Path, damage: str) -> None:
    table, said = clusters(100), list[str]()
    train(table, SMALL, bench(cache_dir=tmp_path))
    (path,) = (tmp_path / "linear").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "other":
        train(clusters(100, dims=6), SMALL, bench(cache_dir=tmp_path / "other"))
        path.write_bytes(next((tmp_path / "other" / "linear").iterdir()).read_bytes())
    else:
        data[-3] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    here = replace(bench(cache_dir=tmp_path), say=said.append)
    source = StatisticsSource(table, SMALL, here)
    train(table, SMALL, here, source=source)
    assert source.epochs == [0, 1, 2, 3]
    assert "cannot be used" in said[0]


def test_the_seed_decides_everything() -> None:
    table = clusters(100)
    one, same = train(table, SMALL, bench()), train(table, SMALL, bench())
    assert torch.equal(one.heads.weight_HCD, same.heads.weight_HCD)
    other = replace(bench(), seed=8)
    assert not torch.equal(one.heads.weight_HCD, train(table, SMALL, other).heads.weight_HCD)


def test_accuracy_is_scikit_learns() -> None:
    table = clusters(150, classes=9, spread=6.0)
    probe = train(table, SMALL, bench())
    found = measure_accuracy(probe, table, bench())
    scores = probe.heads(probe.norm.evaluate(table.features_ND)).detach().numpy()
    assert found.top5 is not None
    for head in range(3):
        for shares, k in ((found.top1, 1), (found.top5, 5)):
            expected = top_k_accuracy_score(table.labels.numpy(), scores[:, head], k=k)
            assert shares[head] == pytest.approx(expected)
    best = found.best()
    assert best is not None
    assert found.top1[best] == max(_shares(found))


def test_a_diverged_head_has_no_accuracy_and_leaves_the_others_alone() -> None:
    table = clusters(100)
    probe = train(table, Protocol((0.1, 1e41), epochs=2, batch_images=30), bench())
    alone = train(table, Protocol((0.1,), epochs=2, batch_images=30), bench())
    found = measure_accuracy(probe, table, bench())
    assert found.top1[1] is None
    assert found.best() == 0
    assert close(probe.heads.weight_HCD[0], alone.heads.weight_HCD[0])
    assert found.top5 is None


def test_of_equal_heads_the_lowest_rate_is_the_best() -> None:
    assert Accuracy((0.5, None, 0.75, 0.75), None).best() == 2
    assert Accuracy((None, None), None).best() is None


def test_batches_are_the_same_with_any_number_of_ranks() -> None:
    protocol = Protocol(batch_images=10)
    alone = epoch_batches(47, protocol, bench(), 3)
    parts = [epoch_batches(47, protocol, bench(rank, 3), 3) for rank in range(3)]
    assert [len(batch) for batch in alone] == [10] * 4
    assert torch.cat(alone).unique().numel() == 40
    for number, batch in enumerate(alone):
        pieces = [part[number].tolist() for part in parts]
        assert sorted(itertools.chain(*pieces)) == sorted(batch.tolist())
        assert {len(piece) for piece in pieces} <= {3, 4}
    assert not torch.equal(alone[0], epoch_batches(47, protocol, bench(), 4)[0])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"epochs": 0}, "--epochs=0"),
        ({"batch_images": 0}, "--train-batch=0"),
        ({"learning_rates": ()}, "--learning-rates"),
        ({"learning_rates": (0.1, float("nan"))}, "--learning-rates"),
        ({"learning_rates": (0.1, float("inf"))}, "--learning-rates"),
        ({"learning_rates": (0.1, 0.1)}, "each once"),
        ({"learning_rates": (0.2, 0.1)}, "from low to high"),
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, object], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        Protocol(**setting)  # type: ignore[arg-type]


def test_a_small_training_split_is_one_batch_and_too_small_for_many_ranks() -> None:
    assert Protocol().fitted(600, 2).batch_images == 600
    with pytest.raises(EvaluationError, match="use at most 3 of 8 ranks"):
        Protocol().fitted(3, 8)
