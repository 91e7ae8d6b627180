"""The planner's model, against a simulation that does not know its formula."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_synclr.config import Config, ConfigError
from online_synclr.planning.measurement import shares_of_cores
from online_synclr.planning.model import Workload, balance, best, predict, predict_all
from online_synclr.planning.rates import GeneratorRate, Rates, StepPoint, StepTimes
from online_synclr.planning.splits import find_splits
from online_synclr.planning.table import Plan
from online_synclr.stream.limiter import RateLimiter
from online_synclr.topology import Split
from tests.plan_simulation import Bucket, RealLimiter, simulate

WORK = Workload(
    batch_groups=24,
    images_used=4,
    images_rendered=4,
    steps=1000,
    reuse=2.0,
    max_reuse=8,
    adaptive=False,
)
RATES = Rates(
    generator=GeneratorRate(groups_per_s=2.0, rss_bytes=3e9, gpu_bytes=9e9),
    trainer=StepTimes.at_rate(96.0),
    source="a test",
)


@settings(max_examples=40, deadline=None)
@given(
    step_s=st.floats(0.05, 2.0),
    rate=st.floats(0.2, 20.0),
    num_generators=st.integers(1, 7),
    batch=st.integers(1, 64),
    reuse=st.floats(0.5, 8.0),
)
def test_a_simulation_comes_to_the_same(
    step_s: float, rate: float, num_generators: int, batch: int, reuse: float
) -> None:
    work = replace(WORK, batch_groups=batch, reuse=reuse)
    told = balance(step_s=step_s, groups_per_s=num_generators * rate, workload=work)
    done = simulate(
        Bucket(batch=batch, reuse=reuse),
        step_s=step_s,
        group_rates=[rate] * num_generators,
        num_steps=400,
    )
    assert told.steps_per_s == pytest.approx(done.steps_per_s, rel=0.05)
    assert told.groups_per_s == pytest.approx(done.groups_per_s, rel=0.05)
    assert told.trainer_wait == pytest.approx(done.trainer_wait, abs=0.05)
    assert told.generator_wait == pytest.approx(done.generator_wait, abs=0.05)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rate", [0.4, 1.0, 2.0, 5.0, 20.0])
def test_so_does_the_real_limiter(rate: float, adaptive: bool) -> None:
    work = replace(WORK, adaptive=adaptive)
    told = balance(step_s=0.5, groups_per_s=3 * rate, workload=work)
    gate = RealLimiter(
        RateLimiter(samples_per_insert=2.0, max_reuse=8, batch=24, adaptive=adaptive)
    )
    done = simulate(gate, step_s=0.5, group_rates=[rate] * 3, num_steps=1000)
    assert told.steps_per_s == pytest.approx(done.steps_per_s, rel=0.03)
    assert told.trainer_wait == pytest.approx(done.trainer_wait, abs=0.03)
    if not adaptive:
        assert told.generator_wait == pytest.approx(done.generator_wait, abs=0.03)


def test_adaptive_reuse_takes_the_trainers_wait_away() -> None:
    """Groups for half of the steps: with up to 8 uses instead of 2 there is enough for all."""
    fixed, adaptive = (
        simulate(
            RealLimiter(RateLimiter(samples_per_insert=2.0, max_reuse=8, batch=24, adaptive=way)),
            step_s=0.5,
            group_rates=[12.0],
            num_steps=1000,
        )
        for way in (False, True)
    )
    assert fixed.trainer_wait == pytest.approx(0.5, abs=0.02)
    assert adaptive.trainer_wait < 0.02
    assert adaptive.steps_per_s == pytest.approx(2 * fixed.steps_per_s, rel=0.05)


def test_neither_side_waits_at_the_balanced_reuse() -> None:
    told = balance(step_s=0.5, groups_per_s=6.0, workload=WORK)
    assert told.balanced_reuse == pytest.approx(8.0)
    assert (told.trainer_wait, told.generator_wait) == (pytest.approx(0.75), 0.0)
    work = replace(WORK, reuse=told.balanced_reuse)
    even = balance(step_s=0.5, groups_per_s=6.0, workload=work)
    assert (even.trainer_wait, even.generator_wait) == (0.0, 0.0)


def test_the_best_split_is_the_fastest_and_of_equals_the_one_that_waits_less() -> None:
    predictions = predict_all(RATES, WORK, [Split(trainers=t, generators=8 - t) for t in (1, 2, 3)])
    # 7 generators: 1.167 steps/s, but one trainer does 1; with 6, 1.0; with 5, 0.833.
    assert [one.balance.steps_per_s for one in predictions if one.balance] == pytest.approx(
        [1.0, 1.0, 5 / 6]
    )
    chosen = best(predictions)
    assert chosen is not None
    assert chosen.name == "7+1"
    assert chosen.images_a_day == pytest.approx(1.0 * 24 / 2 * 4 * 86400)
    assert chosen.captions_a_day == pytest.approx(1.0 * 24 / 2 * 86400)
    assert chosen.days == pytest.approx(1000 / 86400)


def test_nodes_multiply_both_sides_and_divide_the_batch() -> None:
    one = predict(RATES, WORK, Split(trainers=1, generators=3), nodes=1)
    three = predict(RATES, WORK, Split(trainers=1, generators=3), nodes=3)
    assert (one.local_groups, three.local_groups) == (24, 8)
    assert one.balance is not None
    assert three.balance is not None
    assert three.balance.steps_per_s == pytest.approx(3 * one.balance.steps_per_s)


def test_a_server_that_all_generators_share_bounds_them() -> None:
    alone = GeneratorRate(groups_per_s=2.0, render_groups_per_s=2.0, captions_per_s=5.0)
    shared = replace(alone, shared_llm=True)
    assert [alone.of_node(count) for count in (1, 2, 4)] == [2.0, 4.0, 8.0]
    assert [shared.of_node(count) for count in (1, 2, 4)] == [2.0, 4.0, 5.0]


def point(images: int, step_s: float, together: int = 1) -> StepPoint:
    return StepPoint(num_trainers=together, local_images=images, step_s=step_s, rss_bytes=images)


def test_step_times_are_measured_or_lie_on_a_line() -> None:
    times = StepTimes([point(40, 0.5), point(80, 0.9), point(20, 0.8, together=4)])
    assert times.step_s(1, 40) == 0.5
    assert times.step_s(1, 60) == pytest.approx(0.7)
    assert times.step_s(1, 120) == pytest.approx(1.3)
    assert times.step_s(2, 60) == pytest.approx(0.7), "two were not measured: one alone stands in"
    assert times.step_s(4, 40) == pytest.approx(1.6), "from one point: in proportion"
    assert (times.exchanged(4), times.exchanged(2), times.exchanged(1)) == (True, False, True)
    assert times.memory(1, 75) == (80, 0.0)


def test_a_small_batch_is_never_free() -> None:
    """Two noisy points whose line falls below zero."""
    times = StepTimes([point(80, 0.4), point(100, 0.8)])
    assert times.step_s(1, 10) == pytest.approx(10 * 0.4 / 80)


def test_what_did_not_fit_fits_no_larger_batch_either() -> None:
    rates = replace(RATES, trainer=StepTimes([point(32, 0.4)], too_large=[96]))
    splits = [Split(trainers=t, generators=4 - t) for t in (1, 3)]
    large, small = predict_all(rates, WORK, splits)
    assert (large.fits, small.fits) == (False, True)
    assert best([large, small]) is small
    assert best([large]) is None


def make_config(**sections: object) -> Config:
    given = {"trainer": {"batch_groups": 24}, "pool": {"samples_per_insert": 2.0}} | sections
    return Config.model_validate(given)


def test_splits_that_cannot_run_are_named_with_their_reason() -> None:
    splits = find_splits(make_config(), ranks=6)
    assert [split.trainers for split in splits.allowed] == [1, 2, 3, 4]
    assert "does not divide over 5" in splits.refused[Split(trainers=5, generators=1)]
    served = find_splits(make_config(stream={"fan_out": 1}), ranks=6)
    assert "stream.fan_out=1" in served.refused[Split(trainers=4, generators=2)]
    with pytest.raises(ConfigError, match=r"pool\.error_buffer"):
        find_splits(make_config(pool={"error_buffer": 0.1}), ranks=6)


def test_over_two_nodes_the_batch_divides_over_all_trainers() -> None:
    splits = find_splits(make_config(trainer={"batch_groups": 12}), ranks=8, nodes=2)
    assert [split.trainers for split in splits.allowed] == [1, 2, 3, 6]


def make_plan(**changes: object) -> Plan:
    splits = [Split(trainers=t, generators=4 - t) for t in (1, 3)]
    values: dict[str, object] = {
        "workload": WORK,
        "rates": RATES,
        "nodes": 1,
        "ranks": 4,
        "predictions": predict_all(RATES, WORK, splits),
        "refused": {Split(trainers=2, generators=2): "since a test says so."},
        "command": "torchrun ...",
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def test_the_table_says_what_matters() -> None:
    text = make_plan().text()
    for words in (
        "one node of 4 ranks: 24 groups a step, 4 of 4 images of each, 1000 steps, reuse 2",
        "3+1 <- best",
        "9 GB GPU",
        "left out 2+2: since a test says so.",
        "torchrun ...",
    ):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith(("3+1", "1+3"))]
    assert "50 %" in rows[0], "3 generators give half of a step a second, one trainer does one"
    assert "(over max)" in rows[1]


def test_a_split_that_does_not_fit_says_so_in_its_row() -> None:
    rates = replace(RATES, trainer=StepTimes([point(32, 0.4)], too_large=[96]))
    splits = [Split(trainers=t, generators=4 - t) for t in (1, 3)]
    plan = make_plan(rates=rates, predictions=predict_all(rates, WORK, splits))
    (row,) = (line for line in plan.text().splitlines() if line.startswith("3+1"))
    assert row.split(maxsplit=1)[1] == "does not fit into memory"
    assert plan.best is not None
    assert plan.best.name == "1+3"


def test_the_figures_are_json_without_infinities() -> None:
    rates = replace(RATES, trainer=StepTimes([point(8, 0.4)], too_large=[9]))
    splits = [Split(trainers=1, generators=3)]
    nothing = make_plan(rates=rates, predictions=predict_all(rates, WORK, splits))
    figures = json.loads(json.dumps(nothing.figures(), allow_nan=False))
    assert figures["best"] is None
    assert figures["splits"][0]["days"] is None
    figures = json.loads(json.dumps(make_plan().figures(), allow_nan=False))
    assert figures["best"] == "3+1"
    assert figures["splits"][0]["balance"]["steps_per_s"] == pytest.approx(0.5)
    assert figures["refused"] == {"2+2": "since a test says so."}


def test_ranks_share_the_cores_evenly() -> None:
    assert shares_of_cores([0, 1, 2, 3], 2) == ((0, 1), (2, 3))
    assert shares_of_cores([4, 5], 2) == ((4,), (5,))
    assert shares_of_cores([4, 5], 3) == ((4,), (5,), (4,))
