"""Schedules at their ends and middles, against the paper's figures."""

import math
from itertools import pairwise

import pytest

from online_synclr.config.schema import OptimizerConfig, TrainerConfig
from trainer.objective.schedules import cosine, learning_rate, linear, peak_lr, step_settings


def test_learning_rate_warms_up_then_falls_as_a_cosine() -> None:
    rates = [learning_rate(s, peak=1.0, final=0.1, warmup=10, total=110) for s in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:110]))


def test_no_warm_up_starts_at_the_peak_and_a_long_one_never_gets_there() -> None:
    assert learning_rate(0, peak=2.0, final=0.0, warmup=0, total=10) == 2.0
    assert learning_rate(9, peak=2.0, final=0.0, warmup=100, total=10) == pytest.approx(0.2)


def test_cosine_and_linear_stay_at_the_end() -> None:
    for schedule in (cosine, linear):
        assert schedule(0, 3.0, 7.0, total=5) == 3.0
        assert schedule(5, 3.0, 7.0, total=5) == pytest.approx(7.0)
        assert schedule(50, 3.0, 7.0, total=5) == pytest.approx(7.0)
        assert schedule(0, 3.0, 7.0, total=0) == 7.0
    assert linear(1, 3.0, 7.0, total=4) == 4.0
    assert cosine(1, 3.0, 7.0, total=4) == pytest.approx(5.0 - 2.0 * math.cos(math.pi / 4))


def test_the_papers_figures() -> None:
    trainer = TrainerConfig()
    start, middle, end = (step_settings(trainer, step) for step in (0, 250_000, 500_000))
    assert start.weight_decay == pytest.approx(0.04)
    assert middle.weight_decay == pytest.approx(0.12)
    assert end.weight_decay == pytest.approx(0.2)
    assert start.ema == pytest.approx(0.994)
    assert end.ema == pytest.approx(1.0)
    assert start.teacher_temperature == pytest.approx(0.04)
    assert step_settings(trainer, 2000).teacher_temperature == pytest.approx(0.055)
    assert step_settings(trainer, 4000).teacher_temperature == pytest.approx(0.07)
    assert step_settings(trainer, 80_000).lr == pytest.approx(2e-3)
    assert end.lr == pytest.approx(1e-6)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_the_scaling_rule(rule: str, factor: float) -> None:
    settings = OptimizerConfig.model_validate({"lr_scaling": rule, "peak_lr": 0.4})
    assert peak_lr(settings, settings.lr_reference_groups // 4) == pytest.approx(0.4 * factor)
    scaled = TrainerConfig(
        steps=100, batch_groups=2048, optimizer=settings.model_copy(update={"warmup_steps": 0})
    )
    assert step_settings(scaled, 0).lr == pytest.approx(0.4 * factor)


def test_the_last_phase_is_the_run_compressed_at_a_lower_rate() -> None:
    optimizer = {"peak_lr": 0.4, "final_lr": 0.0, "warmup_steps": 20}
    whole = TrainerConfig.model_validate({"steps": 100, "optimizer": optimizer})
    both = TrainerConfig.model_validate(
        {
            "steps": 150,
            "optimizer": optimizer,
            "high_resolution": {"steps": 50, "global_px": 448, "peak_lr_ratio": 0.25},
        }
    )
    for step in range(100):
        assert step_settings(both, step) == step_settings(whole, step)
    for step in range(50):
        ours, twin = step_settings(both, 100 + step), step_settings(whole, 2 * step)
        assert ours.weight_decay == pytest.approx(twin.weight_decay)
        assert ours.ema == pytest.approx(twin.ema)
        assert ours.teacher_temperature == pytest.approx(twin.teacher_temperature)
        if step >= 10:
            assert ours.lr == pytest.approx(0.25 * twin.lr)
    assert step_settings(both, 109).lr == pytest.approx(0.1), "warm up in a tenth of 100 steps"
    assert step_settings(both, 100).lr == pytest.approx(0.01)
