"""The arithmetic of the benchmarks of the whole: rates from moments, and what a run achieved."""

import pytest

from benchmarks.efficiency import BATCH_GROUPS, REUSE, STEP_TIME_S, Split, achieved
from benchmarks.measuring import REPEATS
from benchmarks.phased_rank import KINDS, Moment, burst_ends, rate, schedule
from online_synclr.monitor import metrics


def test_every_repeat_has_every_phase_and_starts_with_another() -> None:
    phases = schedule(4)
    for repeat in range(4):
        kinds = [kind for number, kind in phases if number == repeat]
        assert sorted(kinds) == sorted(KINDS)
    assert [phases[3 * repeat][1] for repeat in range(3)] == list(KINDS)


def test_groups_that_come_in_bursts_are_counted_from_the_end_of_the_first() -> None:
    # Four groups every two seconds, a millisecond apart; of the first burst three were cut off.
    moments = [Moment(10.003, 5.0)]
    moments += [Moment(10 + 2 * n + i / 1000, 5 + n) for n in range(1, 6) for i in range(4)]
    assert len(burst_ends(moments)) == 5
    by_second, by_cpu_second = rate(moments)
    assert by_second == pytest.approx(2.0)
    assert by_cpu_second == pytest.approx(4.0)


@pytest.mark.parametrize("owed_growth_per_s", [0.0, 8.0])
def test_what_came_in_is_uses_and_what_is_owed(owed_growth_per_s: float) -> None:
    steps_per_s, waiting = 4.0, 0.2
    rows = [
        {
            "step": step,
            "time_s": 100.0 + step / steps_per_s,
            metrics.POOL_ERROR: 7.0 + owed_growth_per_s * step / steps_per_s,
            metrics.WAIT_GROUPS: waiting,
        }
        for step in range(5, 205, 5)
    ]
    found = achieved(rows, cpu_s=[0.003 * step for step in range(200)])
    assert found.cpu_s == pytest.approx(0.003)
    expected = (steps_per_s * BATCH_GROUPS + owed_growth_per_s) / REUSE
    assert found.groups_per_s == pytest.approx([expected] * REPEATS)
    assert found.steps_per_s == pytest.approx([steps_per_s] * REPEATS)
    assert found.waiting == pytest.approx(waiting)


def test_the_limit_is_that_of_the_slower_side() -> None:
    usable = BATCH_GROUPS / STEP_TIME_S / REUSE
    assert Split(3, 1, "training").limit_per_s == usable
    assert Split(3, 1, "generation").limit_per_s == pytest.approx(0.7 * usable)
    rates = [text for text in Split(4, 2, "generation").overrides(9.0) if "rate_images" in text]
    assert rates == [f"images.rate_images_per_s={0.7 * usable * 4 / 4}"]
