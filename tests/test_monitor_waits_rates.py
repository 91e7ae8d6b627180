"""Waiting times and rates, with a clock that the test moves."""

import pytest

from online_synclr.monitor.rates import RateBoard, RateMeter
from online_synclr.monitor.waits import WaitClock


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_waits_add_up_by_cause() -> None:
    clock = FakeClock()
    waits = WaitClock(clock)
    for seconds in (2.0, 3.0):
        with waits.waiting("groups"):
            clock.now_s += seconds
    waits.add("vote", 0.5)
    assert waits.seconds() == {"groups": 5.0, "vote": 0.5}


def test_an_open_wait_counts_and_is_not_counted_twice() -> None:
    clock = FakeClock()
    waits = WaitClock(clock)
    with waits.waiting("groups"):
        clock.now_s += 4
        assert waits.seconds() == {"groups": 4.0}
        clock.now_s += 1
    assert waits.seconds() == {"groups": 5.0}


def test_fractions_count_from_the_start_even_inside_a_wait() -> None:
    clock = FakeClock()
    waits = WaitClock(clock)
    with waits.waiting("groups"):
        clock.now_s += 10
        waits.start()
        assert waits.fractions() == {}
        clock.now_s += 2
    clock.now_s += 6
    assert waits.elapsed_s() == 8
    assert waits.fractions() == {"groups": pytest.approx(0.25)}


def test_a_wait_that_ends_in_an_exception_counts() -> None:
    clock = FakeClock()
    waits = WaitClock(clock)

    def fail() -> None:
        with waits.waiting("credits"):
            clock.now_s += 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert waits.seconds() == {"credits": 3.0}


def test_nested_and_parallel_waits_are_kept_apart() -> None:
    clock = FakeClock()
    waits = WaitClock(clock)
    with waits.waiting("groups"):
        clock.now_s += 1
        with waits.waiting("groups"), waits.waiting("vote"):
            clock.now_s += 1
    assert waits.seconds() == {"groups": 3.0, "vote": 1.0}


def test_rates_over_the_window_and_over_the_run() -> None:
    meter = RateMeter(window_s=10)
    assert meter.recent_per_s() == meter.whole_per_s() == 0.0
    for time_s in range(0, 101, 5):
        meter.update(time_s, min(time_s, 50) * 2)
    assert meter.recent_per_s() == 0.0
    assert meter.whole_per_s() == 1.0


def test_the_window_is_spanned_where_readings_are_rare() -> None:
    meter = RateMeter(window_s=10)
    for time_s in (0, 60, 120):
        meter.update(time_s, time_s)
    assert meter.recent_per_s() == pytest.approx(1.0)


def test_a_counter_that_restarts_goes_on_growing() -> None:
    meter = RateMeter()
    for time_s, reading in ((0, 0), (1, 40), (2, 10), (3, 20)):
        meter.update(time_s, reading)
    assert meter.total == 60
    assert meter.whole_per_s() == 20


def test_a_board_sums_owners_and_keeps_those_that_went() -> None:
    board = RateBoard()
    for time_s in (0, 10):
        board.update(time_s, "a", "images", time_s * 3)
        board.update(time_s, "b", "images", time_s)
        board.update(time_s, "b", "captions", time_s)
    assert board.total("images") == 40
    assert board.recent_per_s("images") == 4
    assert board.shares("images") == {"a": 0.75, "b": 0.25}
    assert board.shares("restarts") == {}
