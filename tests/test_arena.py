"""The pool's memory: a place is written over when nobody holds it, and not before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_synclr.stream.errors import StreamError
from online_synclr.stream.group import Group
from tests.stream_helpers import SHAPE, images_of, make_group, make_recipe
from trainer.arena import Arena
from trainer.pool import Pool

GROUP_BYTES = make_group().num_bytes


def test_a_place_is_free_when_its_last_holder_drops_it() -> None:
    arena = Arena(num_places=2, group_bytes=GROUP_BYTES)
    first, second = arena.take(), arena.take()
    assert first != second
    arena.hold(first)
    arena.drop(first)
    with pytest.raises(RuntimeError, match="all 2 places"):
        arena.take()
    arena.drop(first)
    assert arena.num_held == 1
    assert arena.take() == first


def test_places_do_not_overlap_and_are_used_again_before_fresh_ones() -> None:
    arena = Arena(num_places=9, group_bytes=GROUP_BYTES)
    for place in range(3):
        arena.images(arena.take(), SHAPE)[:] = place + 1
    for place in range(3):
        assert (arena.images(place, SHAPE) == place + 1).all()
    arena.drop(1)
    assert arena.take() == 1


def test_images_of_another_size_have_no_place() -> None:
    with pytest.raises(ValueError, match=f"size {GROUP_BYTES}"):
        Arena(num_places=1, group_bytes=GROUP_BYTES).images(0, (1, 3, 8, 8))


def test_more_memory_than_there_is_says_what_to_lower() -> None:
    with pytest.raises(StreamError, match=r"1152921504606846976 bytes.*pool\.max_bytes"):
        Arena(num_places=2**40, group_bytes=2**20)


def land(pool: Pool, counter: int) -> None:
    """As the stream does: written into place, then inserted."""
    place = pool.place(SHAPE)
    place[:] = images_of(counter)
    pool.insert(Group(make_recipe(counter), place), now=float(counter))


def test_a_payload_that_failed_is_written_over_by_the_next() -> None:
    pool = Pool(max_bytes=2 * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=1, seed=0)
    pool.place(SHAPE)[:] = 77
    land(pool, 1)
    assert pool.arena.num_held == 1
    (use,) = pool.sample(1)
    assert np.array_equal(use.group.images_mchw, images_of(1))


def test_groups_from_elsewhere_are_copied_into_the_arena() -> None:
    pool = Pool(max_bytes=2 * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=1, seed=0)
    group = make_group(3)
    pool.insert(group, now=0.0)
    (use,) = pool.sample(1)
    assert np.shares_memory(use.group.images_mchw, pool.arena.memory)
    assert np.array_equal(use.group.images_mchw, group.images_mchw)


def test_more_than_is_ever_lent_cannot_be_sampled() -> None:
    pool = Pool(
        max_bytes=8 * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=1, seed=0, max_batch=2
    )
    for counter in range(4):
        land(pool, counter)
    with pytest.raises(ValueError, match="at most 2 are lent"):
        pool.sample(3)


@given(
    capacity=st.integers(2, 6),
    max_reuse=st.integers(1, 3),
    batch=st.integers(1, 3),
    actions=st.lists(st.sampled_from(["land", "land", "fail", "sample", "room"]), max_size=80),
)
def test_what_is_lent_stays_until_the_next_sampling(
    capacity: int, max_reuse: int, batch: int, actions: list[str]
) -> None:
    pool = Pool(
        max_bytes=capacity * GROUP_BYTES,
        group_bytes=GROUP_BYTES,
        max_reuse=max_reuse,
        seed=0,
        max_batch=batch,
    )
    lent: list[Group] = []
    for counter, action in enumerate(actions):
        if action == "land":
            land(pool, counter)
        elif action == "fail":
            pool.place(SHAPE)[:] = 255
        elif action == "room":
            pool.make_room(capacity - batch)
        elif pool.can_sample(batch):
            lent = [use.group for use in pool.sample(batch)]
        for group in lent:
            assert np.array_equal(group.images_mchw, images_of(group.recipe.counter))
        # The bound that the docstring gives: what is held, one batch, and the one that lands.
        assert pool.arena.num_held <= len(pool) + batch + 1 <= capacity + batch + 1
