"""The order of a pool against a naive model of it, and the draw among equals against chance."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pool_order import _SLACK, PoolOrder

LEVELS = 4
ACTIONS = st.lists(
    st.one_of(st.just(("add", 0)), st.tuples(st.just("draw"), st.integers(0, 12)),
              st.just(("evict", 0))),
    max_size=200,
)  # fmt: skip


def make_order(num_levels: int = LEVELS, seed: int = 0) -> PoolOrder:
    return PoolOrder(num_levels, np.random.default_rng(seed))


@settings(deadline=None)
@given(ACTIONS, st.integers(0, 5))
def test_it_does_what_a_sorted_list_would(actions: list[tuple[str, int]], seed: int) -> None:
    order, uses, born = make_order(seed=seed), dict[int, int](), 0
    for name, batch in actions:
        if name == "add":
            order.add(born, 0)
            uses[born] = 0
            born += 1
        elif name == "evict" and uses:
            most = max(uses.values())
            oldest = min(number for number, of in uses.items() if of == most)
            assert order.evict() == oldest
            del uses[oldest]
        elif name == "draw":
            drawn = order.draw(batch)
            assert len(set(drawn)) == len(drawn) == min(batch, len(uses))
            taken = sorted(uses[number] for number in drawn)
            assert taken == sorted(uses.values())[: len(drawn)], "least used first"
            for number in drawn:
                uses[number] += 1
                if uses[number] < LEVELS:
                    order.add(number, uses[number])
                else:
                    del uses[number]
        assert order.unused == sum(of == 0 for of in uses.values())
        assert order.total_uses == sum(uses.values())


def test_every_set_of_equals_is_drawn_equally_often() -> None:
    order, found = make_order(), Counter[tuple[int, ...]]()
    repeats = 6000
    for _ in range(repeats):
        for number in range(4):
            order.add(number, 0)
        found[tuple(sorted(order.draw(2)))] += 1
        order.draw(2)
    assert set(found) == set(combinations(range(4), 2))
    expected = repeats / len(found)
    chi_squared = sum((count - expected) ** 2 / expected for count in found.values())
    assert chi_squared < 20.5, "one in a thousand, with five degrees of freedom"


def test_what_was_drawn_long_ago_is_not_remembered() -> None:
    order = make_order(num_levels=1)
    for number in range(10_000):
        order.add(number, 0)
        order.draw(1)
    order.add(10_000, 0)
    for number in range(10_001, 20_000):
        order.add(number, 0)
        order.draw(1)
    (level,) = order._levels
    assert len(level._by_age) <= 2 * len(level) + _SLACK + 1


def test_none_is_evicted_where_none_is_held() -> None:
    with pytest.raises(IndexError):
        make_order().evict()
