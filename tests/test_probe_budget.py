"""What probes may cost, and how that is timed."""

import contextlib

import torch

from trainer.probe_budget import DeviceTimer, ProbeBudget


def test_the_next_probe_must_fit_beside_those_before() -> None:
    budget = ProbeBudget(0.02)
    assert budget.allows(0.0), "nobody knows yet what it costs"
    assert not budget.allows(0.1), "the run is too young for it"
    budget.note(spent_s=1.0, elapsed_s=100.0)
    assert budget.allows(1.0)
    assert not budget.allows(1.01)
    budget.note(spent_s=3.0, elapsed_s=100.0)
    assert not budget.allows(0.0), "more was spent than is allowed"


def test_an_interval_stretches_until_the_cost_is_within_its_share() -> None:
    """A probe of 5 s asked for each 100 s of a run; 2 % of the time is one in 250 s."""
    budget, spent_s, taken = ProbeBudget(0.02), 0.0, []
    for elapsed_s in range(100, 2001, 100):
        budget.note(spent_s, float(elapsed_s))
        if budget.allows(5.0):
            spent_s += 5.0
            taken.append(elapsed_s)
        assert spent_s <= 0.02 * elapsed_s
    assert taken == [300, 500, 800, 1000, 1300, 1500, 1800, 2000]


def test_time_inside_blocks_is_added_up_also_where_they_fail() -> None:
    now_s = [0.0]
    timer = DeviceTimer(torch.device("cpu"), clock=lambda: now_s[0])
    with timer.timing():
        now_s[0] = 2.0
    now_s[0] = 10.0
    with contextlib.suppress(ZeroDivisionError), timer.timing():
        now_s[0] = 11.5
        raise ZeroDivisionError
    assert timer.total_s() == timer.total_s(wait=True) == 3.5
