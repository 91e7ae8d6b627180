"""The penalty, the last fit and the score are those of the same protocol in scikit-learn."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.finegrained.l2_path import Trial, best_trial
from evaluation.finegrained.metrics import METRICS
from evaluation.finegrained.parts import Parts
from evaluation.finegrained.protocol import Outcome, Scale, judge
from evaluation.finegrained.settings import Settings
from tests.finegrained_tables import CLASSES, one_class_parts, several_classes_parts
from tests.rank_pool import RankPool

SETTINGS = Settings(num_l2_values=12)
CPU = torch.device("cpu")


def _judge(parts: Parts, metric: str, bench: Bench | None = None) -> Outcome:
    return judge(
        parts,
        metric=METRICS[metric],
        settings=SETTINGS,
        bench=bench or Bench(device=CPU),
        title="a test",
    )


def _reference(l2: float) -> LogisticRegression:
    return LogisticRegression(C=1 / l2, tol=1e-7, max_iter=10_000)


def test_penalties_are_the_papers() -> None:
    values = Settings().l2_values
    np.testing.assert_allclose(values[::-1], np.logspace(-6, 5, 45), rtol=1e-12)


def test_one_class_an_image_agrees_with_scikit_learn() -> None:
    parts = one_class_parts()
    outcome = _judge(parts, "mean_per_class")

    scaler = StandardScaler().fit(parts.train.features_ND.double().numpy())
    train, val = (
        scaler.transform(table.features_ND.double().numpy()) for table in (parts.train, parts.val)
    )
    scores = []
    for l2 in SETTINGS.l2_values:
        predicted = _reference(l2).fit(train, parts.train.labels.numpy()).predict(val)
        scores.append(balanced_accuracy_score(parts.val.labels.numpy(), predicted))
    np.testing.assert_allclose([trial.score for trial in outcome.trials], scores)
    assert len(set(scores)) > 2
    # The first of the best: the strongest.
    best = SETTINGS.l2_values[int(np.argmax(scores))]
    assert outcome.chosen.l2 == best

    both = parts.train_and_val
    scaler = StandardScaler().fit(both.features_ND.double().numpy())
    final = _reference(best).fit(
        scaler.transform(both.features_ND.double().numpy()), both.labels.numpy()
    )
    predicted = final.predict(scaler.transform(parts.test.features_ND.double().numpy()))
    expected = balanced_accuracy_score(parts.test.labels.numpy(), predicted)
    assert outcome.score == pytest.approx(expected)
    assert outcome.final.converged


def test_several_classes_agree_with_scikit_learn_class_by_class() -> None:
    parts = several_classes_parts()
    outcome = _judge(parts, "map_11point")
    both = parts.train_and_val
    scaler = StandardScaler().fit(both.features_ND.double().numpy())
    train, test = (
        scaler.transform(table.features_ND.double().numpy()) for table in (both, parts.test)
    )
    columns = [
        _reference(outcome.chosen.l2)
        .fit(train, both.labels[:, index].numpy())
        .decision_function(test)
        for index in range(CLASSES)
    ]
    scores_NC = torch.from_numpy(np.stack(columns, axis=1))
    expected = METRICS["map_11point"].score(scores_NC, parts.test.labels)
    assert outcome.score == pytest.approx(expected)
    assert outcome.chosen.score == max(trial.score for trial in outcome.trials)


def test_of_equal_scores_the_strongest_penalty_is_chosen() -> None:
    trials = [
        Trial(l2=l2, score=score, gradient=0.0, iterations=1, evaluations=1, converged=True)
        for l2, score in ((100.0, 0.5), (10.0, 0.7), (1.0, 0.7), (0.1, 0.6))
    ]
    assert best_trial(trials).l2 == 10.0


def test_a_constant_feature_is_left_at_zero() -> None:
    features_ND = one_class_parts().train.features_ND
    scaled_ND = Scale.of(features_ND).apply(features_ND, CPU)
    assert scaled_ND[:, -1].abs().max() < 1e-6
    expected = StandardScaler().fit_transform(features_ND.double().numpy())
    np.testing.assert_allclose(scaled_ND[:, :-1], expected[:, :-1], rtol=1e-6, atol=1e-9)


def test_scaling_leaves_the_table_as_it_is() -> None:
    features_ND = one_class_parts().train.features_ND.double()
    before = features_ND.clone()
    Scale.of(features_ND).apply(features_ND, CPU)
    assert torch.equal(features_ND, before)


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2) as ranks:
        yield ranks


def _alone_and_together() -> tuple[Outcome, Outcome]:
    """On a rank of two."""
    rank = torch.distributed.get_rank()
    alone = _judge(one_class_parts(), "top1")
    together = _judge(one_class_parts(), "top1", Bench(device=CPU, rank=rank, num_ranks=2))
    return alone, together


def test_two_ranks_find_what_one_does(pool: RankPool) -> None:
    outcomes = pool.run(_alone_and_together)
    for alone, together in outcomes:
        assert together.trials == alone.trials
        assert together.chosen == alone.chosen
        assert together.score == alone.score
    assert outcomes[0][1].trials == outcomes[1][1].trials


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"num_l2_values": 1}, "--l2-values"),
        ({"max_iterations": 0}, "--max-iterations"),
        ({"tolerance": 0.0}, "--tolerance"),
        ({"tolerance": 1e-9}, "--tolerance"),
        ({"tolerance": float("nan")}, "--tolerance"),
    ],
)
def test_wrong_settings_name_their_option(wrong: dict[str, float], option: str) -> None:
    with pytest.raises(EvaluationError, match=option):
        replace(Settings(), **wrong)
