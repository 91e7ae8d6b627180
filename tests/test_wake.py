"""Waking a thread that waits in a poller: no wake is lost, and none stays for ever."""

import zmq

from online_synclr.stream.wake import Wake

LONG_MS = 30_000


def test_wakes_before_a_look_are_one_and_leave_nothing_behind() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wake = Wake(context)
    for _ in range(200):
        wake.wake()
        wake.wake()
        assert wake.socket.poll(LONG_MS)
        wake.clear()
        assert not wake.socket.poll(0)
    wake.close()
    context.term()


def test_a_look_without_a_wake_takes_none_that_comes_later() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wake = Wake(context)
    wake.clear()
    wake.wake()
    wake.clear()
    assert not wake.socket.poll(0)
    wake.wake()
    assert wake.socket.poll(LONG_MS)
    wake.close()
    context.term()
