"""The pool: least used first, bounded, and its counts add up."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream_helpers import make_group
from trainer.pool import Pool

GROUP = make_group()


def make_pool(capacity: int = 8, max_reuse: int = 3, seed: int = 0) -> Pool:
    group_bytes = GROUP.num_bytes
    # Less than one group more than `capacity`: the bound is in bytes, not rounded up.
    max_bytes = capacity * group_bytes + group_bytes - 1
    return Pool(max_bytes=max_bytes, group_bytes=group_bytes, max_reuse=max_reuse, seed=seed)


def fill(pool: Pool, counters: range) -> None:
    for counter in counters:
        pool.insert(make_group(counter), now=float(counter))


def names(sampled: list) -> list[int]:
    return [group.recipe.counter for group, _, _ in sampled]


def test_least_used_first_without_replacement() -> None:
    pool = make_pool()
    fill(pool, range(6))
    first = pool.sample(4)
    assert [use.uses_before for use in first] == [0, 0, 0, 0]
    second = pool.sample(4)
    assert sorted(use.uses_before for use in second) == [0, 0, 1, 1]
    assert set(names(first)) | set(names(second)) == set(range(6))
    assert len(set(names(second))) == 4


def test_a_group_is_used_max_reuse_times_and_leaves() -> None:
    pool = make_pool(max_reuse=2)
    fill(pool, range(2))
    for expected in (0, 1):
        assert [use.uses_before for use in pool.sample(2)] == [expected, expected]
    assert len(pool) == 0
    assert not pool.can_sample(1)
    assert pool.counters(0.0).evicted_by_uses_left == {0: 2}
    with pytest.raises(ValueError, match="0 held"):
        pool.sample(1)


def test_a_full_pool_evicts_the_most_used_then_the_oldest() -> None:
    pool = make_pool(capacity=4, max_reuse=3)
    fill(pool, range(4))
    used = set(names(pool.sample(2)))
    pool.insert(make_group(4), now=4.0)
    gone = used - held(pool)
    assert gone == {min(used)}
    pool.insert(make_group(5), now=5.0)
    assert used - held(pool) == used
    pool.insert(make_group(6), now=6.0)
    assert held(pool) == {max(set(range(4)) - used), 4, 5, 6}
    counters = pool.counters(6.0)
    assert counters.evicted_by_uses_left == {2: 2, 3: 1}
    assert (counters.evicted_unused, counters.trained, counters.left) == (1, 2, 4)


def held(pool: Pool) -> set[int]:
    return {entry.group.recipe.counter for entry in pool._entries.values()}


def test_room_for_groups_on_their_way_is_made_beforehand() -> None:
    pool = make_pool(capacity=4)
    fill(pool, range(4))
    pool.make_room(3)
    assert held(pool) == {3}
    pool.make_room(100)
    assert len(pool) == 0


def test_ties_are_mixed_and_reproducible() -> None:
    orders = []
    for seed in (0, 0, 1):
        pool = make_pool(capacity=32, seed=seed)
        fill(pool, range(32))
        orders.append(names(pool.sample(8)))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        make_pool().insert(make_group(0, (2, 3, 8, 9)), now=0.0)


def test_means_are_over_what_is_held() -> None:
    pool = make_pool()
    assert pool.counters(5.0).mean_age_s == 0.0
    fill(pool, range(4))
    pool.sample(2)
    counters = pool.counters(now=10.0)
    assert counters.mean_age_s == pytest.approx(10.0 - 1.5)
    assert counters.mean_uses == pytest.approx(0.5)
    assert counters.num_bytes == 4 * GROUP.num_bytes


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.integers(-6, 6), max_size=60),
)
def test_counts_add_up_at_all_times(capacity: int, max_reuse: int, steps: list[int]) -> None:
    pool = make_pool(capacity, max_reuse)
    names_left = itertools.count()
    uses: dict[int, int] = {}
    gone: dict[int, int] = {}
    for step in steps:
        if step <= 0:
            fill(pool, range((start := next(names_left)), start + 1))
        elif pool.can_sample(step):
            for group, before, number in pool.sample(step):
                assert number == group.recipe.counter
                assert uses.get(group.recipe.counter, 0) == before
                uses[group.recipe.counter] = before + 1
        left = pool.take_left()
        assert not left.keys() & gone.keys(), "a group leaves once"
        gone |= left
        assert gone | pool.held_uses() == uses
        counters = pool.counters(0.0)
        evicted = sum(counters.evicted_by_uses_left.values())
        assert counters.received == counters.trained + counters.evicted_unused + counters.left
        assert counters.received == counters.groups + evicted
        assert counters.group_uses == sum(uses.values())
        assert counters.trained == len(uses)
        assert counters.num_bytes <= capacity * GROUP.num_bytes
        assert all(count <= max_reuse for count in uses.values())
