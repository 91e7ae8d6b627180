"""The rate limiter: its formula, and what it refuses at start."""

import pytest

from online_synclr.stream.errors import LimiterError
from online_synclr.stream.limiter import ADAPT_BATCHES, RateLimiter


def make(**changes: object) -> RateLimiter:
    settings = {"samples_per_insert": 2.0, "max_reuse": 4, "batch": 4} | changes
    return RateLimiter(**settings)  # type: ignore[arg-type]


def insert(limiter: RateLimiter, num_groups: int) -> None:
    for _ in range(num_groups):
        limiter.on_insert(0)


def test_defaults_are_two_and_four_batches() -> None:
    limiter = make()
    assert limiter.min_groups == 8
    assert (limiter.min_diff, limiter.max_diff) == (2 * 8 - 16, 2 * 8 + 16)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("reuse", "most"), [(1.0, 1), (1.0, 8), (2.0, 32), (27.3, 32), (0.5, 64)])
@pytest.mark.parametrize("batch", [1, 4, 1024])
def test_defaults_are_never_refused(adaptive: bool, reuse: float, most: int, batch: int) -> None:
    limiter = make(samples_per_insert=reuse, max_reuse=most, batch=batch, adaptive=adaptive)
    assert limiter.max_diff >= limiter.largest_reuse * batch


def test_error_follows_the_formula() -> None:
    limiter = make(samples_per_insert=1.5)
    insert(limiter, 10)
    limiter.on_sample(4)
    limiter.on_sample(4)
    assert limiter.error == pytest.approx(1.5 * 10 - 8)
    assert limiter.inserted == 10


def test_inserting_is_free_until_min_groups_and_sampling_waits_for_them() -> None:
    limiter = make(error_buffer=8)
    assert limiter.inserts_allowed(0) == (2 * 8 + 8) // 2
    insert(limiter, 7)
    assert not limiter.can_sample(4)
    insert(limiter, 1)
    assert limiter.can_sample(4)


def test_sampling_stops_at_min_diff_and_inserting_at_max_diff() -> None:
    limiter = make(error_buffer=8)
    insert(limiter, 8)
    assert limiter.error == 16
    limiter.on_sample(4)
    assert limiter.can_sample(4)
    limiter.on_sample(4)
    assert limiter.error == limiter.min_diff == 8
    assert not limiter.can_sample(4)
    assert limiter.inserts_allowed(0) == 8
    insert(limiter, 8)
    assert limiter.error == limiter.max_diff
    assert limiter.inserts_allowed(0) == 0


def test_groups_in_flight_count_as_inserts() -> None:
    limiter = make(error_buffer=8)
    insert(limiter, 8)
    allowed = limiter.inserts_allowed(0)
    assert allowed == 4
    assert [limiter.inserts_allowed(flying) for flying in range(6)] == [4, 3, 2, 1, 0, 0]


def test_adaptive_reuse_rises_when_short_and_falls_again() -> None:
    limiter = make(adaptive=True, error_buffer=16, max_reuse=4)
    insert(limiter, 8)
    while limiter.can_sample(4):
        limiter.on_sample(4)
    rises = []
    for _ in range(ADAPT_BATCHES * 4):
        limiter.note_shortage()
        limiter.on_insert(0)
        limiter.on_sample(limiter.can_sample(4) * 4)
        rises.append(limiter.reuse_in_force)
    assert rises == sorted(rises)
    assert limiter.reuse_in_force == pytest.approx(4.0)
    for _ in range(100):
        limiter.on_insert(0)
    assert limiter.reuse_in_force == 2.0


def test_reuse_stays_as_set_without_adaptive() -> None:
    limiter = make()
    insert(limiter, 8)
    limiter.note_shortage()
    insert(limiter, 8)
    assert limiter.reuse_in_force == 2.0


def test_adaptive_reuse_keeps_groups_in_flight_within_max_diff() -> None:
    limiter = make(adaptive=True, error_buffer=16)
    insert(limiter, 8)
    flying = limiter.inserts_allowed(0)
    while flying:
        limiter.note_shortage()
        flying -= 1
        limiter.on_insert(flying)
        assert limiter.error + limiter.reuse_in_force * flying <= limiter.max_diff + 1e-6


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"samples_per_insert": 4.5}, "pool.samples_per_insert"),
        ({"samples_per_insert": 0.0}, "pool.samples_per_insert"),
        ({"samples_per_insert": float("nan")}, "pool.samples_per_insert"),
        ({"samples_per_insert": float("inf")}, "pool.samples_per_insert"),
        ({"max_reuse": 0}, "pool.max_reuse"),
        ({"batch": 0}, "local batch"),
        ({"min_groups": 3}, "pool.min_groups"),
        ({"error_buffer": 2.9}, "pool.error_buffer"),
        ({"error_buffer": float("nan")}, "pool.error_buffer"),
        ({"error_buffer": float("inf")}, "pool.error_buffer"),
        ({"adaptive": True, "samples_per_insert": 1, "error_buffer": 7}, "pool.error_buffer"),
    ],
)
def test_settings_that_could_stop_training_are_refused(
    changes: dict[str, object], key: str
) -> None:
    with pytest.raises(LimiterError) as refused:
        make(**changes)
    assert key in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pool_too_small_is_refused_with_the_size_needed() -> None:
    limiter = make()
    needed = limiter.groups_needed()
    limiter.check_capacity(needed * 1000, 1000)
    with pytest.raises(LimiterError, match=rf"pool\.max_bytes .* at least {needed * 1000} "):
        limiter.check_capacity(needed * 1000 - 1, 1000)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, 8),  # r * B / 1
        ({"samples_per_insert": 4.0}, 16),
        ({"samples_per_insert": 2.5}, 15),  # M * (B - 1) + r, better than 2.5 * 4 / 0.5
        ({"samples_per_insert": 0.5}, 8),  # at least min_groups
        ({"samples_per_insert": 1.0, "max_reuse": 1, "min_groups": 4}, 5),  # at least B + 1
        ({"adaptive": True}, 16),
        ({"min_groups": 50}, 50),
    ],
)
def test_groups_needed(changes: dict[str, object], needed: int) -> None:
    assert make(**changes).groups_needed() == needed
