"""What a run's logged steps say of its later part."""

import pytest

from benchmarks.planned_run import achieved
from online_synclr.monitor import metrics


def row(step: int, time_s: float, groups: float, vote: float, credits: float) -> dict[str, float]:
    return {
        "step": step,
        "time_s": time_s,
        metrics.LOSS_TOTAL: 1.0,
        metrics.WAIT_GROUPS: groups,
        metrics.WAIT_VOTE: vote,
        metrics.WAIT_CREDITS: credits,
        metrics.POOL_REUSE: 3.0,
    }


def test_the_first_third_is_left_out() -> None:
    """30 steps in the first 10 s, without a wait; 20 in the other 20 s, waiting for half of it."""
    rows = [
        row(0, 100.0, 0.0, 0.0, 0.0),
        row(30, 110.0, 0.0, 0.0, 0.6),
        {"step": 30, "time_s": 111.0, metrics.KNN_ACCURACY: 0.5},
        row(50, 130.0, 0.3, 1 / 30, 0.2),
    ]
    found = achieved(rows)
    assert found.steps_per_s == pytest.approx(20 / 20)
    assert found.trainer_wait == pytest.approx(10 / 20)
    assert found.generator_wait == pytest.approx(0.0)
    assert found.reuse_in_force == 3.0
