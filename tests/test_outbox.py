"""Every group offered is sent once, counted as unsent once, or handed back."""

import numpy as np
import pytest

from online_synclr.stream.group import Group
from online_synclr.stream.outbox import Outbox
from tests.stream_helpers import make_recipe


def make_group(counter: int) -> Group:
    return Group(make_recipe(counter), np.zeros((1, 3, 2, 2), dtype=np.uint8))


def filled(count: int) -> Outbox:
    outbox = Outbox(count)
    assert all(outbox.put(make_group(counter), 0.0) for counter in range(count))
    return outbox


def test_a_group_that_is_sent_while_the_outbox_stops_is_not_unsent() -> None:
    outbox = filled(3)
    assert outbox.take(1)
    outbox.stop()
    outbox.sent()
    assert outbox.unsent == 2


def test_a_group_put_back_after_the_stop_is_unsent() -> None:
    outbox = filled(3)
    (group,) = outbox.take(1)
    outbox.stop()
    outbox.put_back(group)
    assert outbox.unsent == 3


def test_nothing_is_left_to_send_once_the_group_in_hand_is_gone() -> None:
    outbox = filled(1)
    assert not outbox.wait_sent(0.0)
    assert outbox.take(1)
    assert not outbox.wait_sent(0.0), "in hand is not on its way"
    outbox.sent()
    assert outbox.wait_sent(0.0)
    outbox.fail(ValueError("refused"))
    with pytest.raises(ValueError, match="refused"):
        outbox.wait_sent(0.0)


def test_a_group_put_back_is_the_oldest_again_and_keeps_its_room() -> None:
    outbox = filled(2)
    (group,) = outbox.take(1)
    assert not outbox.put(make_group(9), 0.0), "the group in hand still takes its room"
    outbox.put_back(group)
    assert outbox.take(1) == [group]
    outbox.sent()
    assert outbox.put(make_group(9), 0.0)


def test_several_in_hand_keep_their_room_and_their_order() -> None:
    outbox = filled(3)
    groups = outbox.take(2)
    assert [group.recipe.counter for group in groups] == [0, 1]
    assert not outbox.put(make_group(9), 0.0)
    outbox.put_back(*groups)
    assert [group.recipe.counter for group in outbox.take(9)] == [0, 1, 2]
    outbox.sent()
    assert outbox.take(9) == []
    assert all(outbox.put(make_group(counter), 0.0) for counter in range(3))
    groups = outbox.take(2)
    outbox.stop()
    assert outbox.unsent == 1
    outbox.put_back(*groups)
    assert outbox.unsent == 3
