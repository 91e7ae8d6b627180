"""The intake: what the receiver's thread and the training loop share."""

import threading

import pytest

from online_synclr.caption_identity import caption_id
from online_synclr.config.schema import Config
from online_synclr.stream.errors import LimiterError
from online_synclr.stream.limiter import ADAPT_BATCHES, RateLimiter
from tests.stream_ends import wait_until
from tests.stream_helpers import make_group
from trainer.intake import Intake, build_intake
from trainer.pool import Pool

GROUP_BYTES = make_group().num_bytes


def make_intake(capacity: int = 12, adaptive: bool = False) -> Intake:
    limiter = RateLimiter(samples_per_insert=2, max_reuse=3, batch=2, adaptive=adaptive)
    pool = Pool(max_bytes=capacity * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=3, seed=0)
    return Intake(limiter, pool, clock=lambda: 10.0)


def fill(intake: Intake, num_groups: int, start: int = 0) -> None:
    intake.credits_to_issue(num_groups)
    for counter in range(start, start + num_groups):
        intake.insert(make_group(counter))


def test_sampling_waits_for_min_groups() -> None:
    intake = make_intake()
    fill(intake, 3)
    assert intake.try_sample(2) is None
    assert not intake.wait_ready(0.0)
    fill(intake, 1, start=3)
    assert intake.wait_ready(0.0)
    batch = intake.try_sample(2)
    assert batch is not None
    for sampled in batch:
        assert sampled.uses_before == 0
        assert sampled.caption_id == caption_id(sampled.group.recipe.caption)


def test_an_insert_wakes_the_loop() -> None:
    intake = make_intake()
    fill(intake, 3)
    outcome: list[bool] = []
    loop = threading.Thread(target=lambda: outcome.append(intake.wait_ready(60.0)))
    loop.start()
    fill(intake, 1, start=3)
    loop.join(30.0)
    assert outcome == [True]


def test_close_wakes_the_loop_for_good() -> None:
    intake = make_intake()
    outcome: list[bool] = []
    loop = threading.Thread(target=lambda: outcome.append(intake.wait_ready(60.0)))
    loop.start()
    intake.close()
    loop.join(30.0)
    assert outcome == [False]


def test_sampling_wakes_the_receiver_outside_the_lock() -> None:
    intake = make_intake()
    seen: list[int] = []
    intake.on_room(lambda: seen.append(intake.counters().group_uses))
    fill(intake, 4)
    intake.try_sample(2)
    assert seen == [2]


def test_credits_leave_one_batch_in_the_pool() -> None:
    intake = make_intake(capacity=6)
    fill(intake, 6)
    assert intake.credits_to_issue(0) == (intake._limiter.max_diff - 12) // 2
    while intake.try_sample(2):
        pass
    allowed = intake.credits_to_issue(0)
    assert allowed == 4
    assert intake.credits_to_issue(allowed) == 0
    counters = intake.counters()
    assert (counters.groups, counters.credits_in_flight) == (2, 4)


def test_reclaimed_credits_can_be_issued_again() -> None:
    intake = make_intake()
    allowed = intake.credits_to_issue(0)
    assert intake.credits_to_issue(allowed) == 0
    intake.reclaim(allowed)
    assert intake.counters().credits_in_flight == 0
    assert intake.credits_to_issue(0) == allowed


def test_adaptive_reuse_is_in_the_counters() -> None:
    intake = make_intake(adaptive=True)
    fill(intake, 4)
    while intake.try_sample(2):
        pass
    fill(intake, 1, start=4)
    assert intake.counters().reuse_in_force > 2.0


def test_adaptive_reuse_rises_with_every_group_the_loop_waits_for() -> None:
    limiter = RateLimiter(samples_per_insert=1, max_reuse=4, batch=8, adaptive=True)
    pool = Pool(max_bytes=40 * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=4, seed=0)
    intake = Intake(limiter, pool)
    fill(intake, 16)
    while intake.try_sample(8):
        pass
    fill(intake, 1, start=16)
    before = intake.counters().reuse_in_force
    loop = threading.Thread(target=intake.wait_ready, args=(60.0,))
    loop.start()
    wait_until(lambda: intake._waiting)
    fill(intake, 4, start=17)
    per_insert = (4 - 1) / (ADAPT_BATCHES * 8)
    assert intake.counters().reuse_in_force == pytest.approx(before + 4 * per_insert)
    intake.close()
    loop.join(30.0)


def test_counts_go_on_after_a_resume_and_add_up() -> None:
    first = make_intake()
    fill(first, 6)
    for _ in range(2):
        assert first.try_sample(2)
    state = first.state_dict()
    second = make_intake()
    second.load_state_dict(state)
    counters = second.counters()
    assert (counters.limiter_error, counters.groups) == (0.0, 0)
    fill(second, 4)
    assert second.try_sample(2)
    counters = second.counters()
    assert (counters.received, counters.trained, counters.group_uses) == (10, 6, 6)
    assert counters.evicted_unused == 2
    assert sum(counters.evicted_by_uses_left.values()) == 2, "also by the uses they had left"
    assert counters.received == counters.trained + counters.evicted_unused + counters.left


def test_a_pool_too_small_is_refused() -> None:
    with pytest.raises(LimiterError, match=r"pool\.max_bytes"):
        make_intake(capacity=3)


def test_build_from_the_configuration() -> None:
    intake = build_intake(Config(), local_batch=64, seed=0)
    assert intake.credits_to_issue(0) > 128
    with pytest.raises(LimiterError, match=r"pool\.max_bytes"):
        build_intake(Config(), local_batch=8192, seed=0)
