"""Ends other than the clean one: errors, silence, kills, restarts."""

import contextlib
import multiprocessing
import socket
import threading

import pytest

from online_synclr.stream import link
from online_synclr.stream.endpoints import Endpoint, ipc_endpoint, make_endpoint
from online_synclr.stream.errors import StreamError
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import (
    Bye,
    ByeAck,
    Credit,
    End,
    GroupHeader,
    Hello,
    Status,
    Welcome,
)
from online_synclr.stream.sender import Sender
from tests.stream_ends import (
    LONG_S,
    RawDealer,
    RawRouter,
    StepClock,
    adds_up,
    generate_until_killed,
    only_peer,
    put_all,
    receiving,
    seen,
    sending,
    wait_until,
)
from tests.stream_helpers import FakeSink, make_hello


def test_an_error_of_the_engine_is_not_an_end() -> None:
    sink = FakeSink(room=1)
    with receiving(sink) as receiver, sending(receiver.address, make_hello()) as sender:
        put_all(sender, range(3))
        assert sink.arrived(1)
        sender.report_error("out of memory")
        wait_until(lambda: only_peer(receiver).connection == "failed")
        assert sender.close(LONG_S)
        view = only_peer(receiver)
        assert (view.connection, view.first_error) == ("failed", "out of memory")
        assert view.counters["groups_unsent"] == 2


def test_silence_reclaims_credits_and_others_get_them() -> None:
    sink, clock = FakeSink(room=4), StepClock()
    with (
        receiving(sink, silence_s=8.0, clock=clock) as receiver,
        RawDealer(receiver.address, make_hello("mute")) as mute,
    ):
        assert sink.wait_for(lambda: sink.in_flight == 4)
        mute.send_group(0)
        mute.socket.send_multipart(pack(Status(state="running", counters={}, sent=3)))
        assert sink.arrived(1)
        clock.pass_until(lambda: sink.reclaimed == 3, receiver, step_s=0.25)
        with sending(receiver.address, make_hello("loud")) as sender:
            put_all(sender, range(3))
            assert sink.arrived(4)
            views = {view.generator_id: view for view in receiver.peers()}
            assert views["mute"].connection == "silent"
            assert (views["mute"].lost, views["loud"].lost) == (2, 0)
            # Its credits are someone else's now: what it still sends is counted, not trained.
            mute.send_group(1)
            wait_until(lambda: receiver.counters().discarded == {"late": 1})
            assert len(sink.groups) == 4
            assert adds_up(receiver)


def test_credits_of_an_earlier_lease_are_void() -> None:
    with RawRouter() as trainer, sending(trainer.address, make_hello()) as sender:
        put_all(sender, range(3))
        trainer.next(Hello)
        trainer.send(Welcome(trainer_index=0, addresses=[], lease=2))
        trainer.send(Credit(num_groups=1, lease=1))
        trainer.send(Credit(num_groups=1, lease=2))
        group = trainer.next(GroupHeader)
        assert (group.sequence, group.lease) == (0, 2)
        trainer.send(End(reason="done"))
        goodbye = threading.Thread(target=sender.close, args=(LONG_S,))
        goodbye.start()
        assert trainer.next(Bye).sent == 1
        trainer.send(ByeAck())
        goodbye.join(LONG_S)
        assert sender.counters()["groups_unsent"] == 2


def test_a_trainer_that_restarts_is_found_again() -> None:
    own = ipc_endpoint()
    endpoint = Endpoint(own.url)  # without its folder, which must outlive the first receiver
    first, second = FakeSink(room=3), FakeSink()
    with contextlib.ExitStack() as stack:
        with receiving(first, endpoint) as receiver:
            sender = stack.enter_context(sending(receiver.address, make_hello()))
            put_all(sender, range(5))
            assert first.arrived(3)
        with receiving(second, endpoint) as receiver:
            put_all(sender, range(5, 10))
            assert sender.close(LONG_S)
            assert seen(first) + seen(second) == list(range(10))
    own.remove()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_killed_process_loses_only_what_was_in_flight(transport: str) -> None:
    sink, clock = FakeSink(), StepClock()
    endpoint = make_endpoint(transport, "127.0.0.1", 0, 0)
    with receiving(sink, endpoint, silence_s=8.0, clock=clock) as receiver:
        child = multiprocessing.get_context("spawn").Process(
            target=generate_until_killed, args=(receiver.address,), daemon=True
        )
        child.start()
        try:
            assert sink.arrived(2000)
        finally:
            child.kill()
            child.join(LONG_S)
        clock.pass_until(lambda: receiver.drain(0.0), receiver, step_s=0.25)
        view = only_peer(receiver)
        assert view.connection == "silent"
        assert receiver.counters().credits_in_flight == sink.in_flight == 0
        assert seen(sink) == list(range(view.received))
        assert view.lost <= 4
        assert adds_up(receiver)


def test_a_failed_sink_is_reported_not_swallowed() -> None:
    class Broken(FakeSink):
        def insert(self, group: object) -> None:
            raise RuntimeError("broken sink")

    with receiving(Broken()) as receiver, sending(receiver.address, make_hello()) as sender:
        put_all(sender, range(1))
        wait_until(lambda: not receiver.running)
        with pytest.raises(StreamError, match="broken sink"):
            receiver.peers()


def test_a_connection_that_was_answered_with_junk_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libzmq gives such a connection up for good."""
    monkeypatch.setattr(link, "REVIVE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as liar:
        liar.settimeout(LONG_S)
        port = liar.getsockname()[1]
        sender = Sender([f"tcp://127.0.0.1:{port}"], make_hello())
        for _ in range(3):
            connection, _ = liar.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64))
                while connection.recv(4096):
                    pass
    sink = FakeSink()
    with receiving(sink, make_endpoint("tcp", "127.0.0.1", port, 0)):
        put_all(sender, range(3))
        wait_until(lambda: len(sink.groups) == 3)
        assert sender.close(LONG_S)


def test_a_sender_that_leaves_does_not_wait_for_trainers_that_are_gone() -> None:
    sink = FakeSink(room=1)
    with receiving(sink) as receiver:
        sender = Sender([receiver.address], make_hello(), queue_groups=4)
        put_all(sender, range(4))
        assert sink.arrived(1)
    leaving = threading.Thread(target=sender.close, args=(20 * LONG_S,))
    leaving.start()
    leaving.join(LONG_S)
    assert not leaving.is_alive(), "half of the goodbye is for credits, where somebody may give any"
    assert sender.counters()["groups_unsent"] == 3
