"""The stream over real sockets: ipc and tcp, threads and one spawned process."""

import contextlib
import socket
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from online_synclr.stream.control import ControlClient
from online_synclr.stream.endpoints import Endpoint, make_endpoint, tcp_endpoint
from online_synclr.stream.errors import StreamError, StreamRejected
from online_synclr.stream.group import Group
from online_synclr.stream.limiter import RateLimiter
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender
from tests.stream_ends import (
    LONG_S,
    RawDealer,
    adds_up,
    only_peer,
    produce,
    put_all,
    receiving,
    seen,
    sending,
    wait_until,
)
from tests.stream_helpers import RUN_ID, SHAPE, FakeSink, images_of, make_group, make_hello
from trainer.intake import Intake
from trainer.pool import Pool


@pytest.fixture(params=["ipc", "tcp"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    return make_endpoint(request.param, "127.0.0.1", 0, 0)


def test_every_group_arrives_once_and_in_order(endpoint: Endpoint) -> None:
    sink = FakeSink()
    with receiving(sink, endpoint) as receiver, sending(receiver.address, make_hello()) as sender:
        put_all(sender, range(1000))
        assert sender.close(LONG_S)
        assert seen(sink) == list(range(1000))
        counters = receiver.counters()
        assert (counters.sent, counters.received, counters.lost) == (1000, 1000, 0)
        view = only_peer(receiver)
        assert view.connection == "ended"
        assert view.counters["groups_sent"] == 1000
    assert sink.most_in_flight <= 4


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_groups_land_where_the_sink_wants_them(encoding: str) -> None:
    class OnePlace(FakeSink):
        memory = np.zeros(SHAPE, np.uint8)

        def place(self, shape: Sequence[int]) -> np.ndarray:
            return self.memory.reshape(shape)

    sink = OnePlace(room=1)
    with (
        receiving(sink) as receiver,
        sending(receiver.address, make_hello(), encoding=encoding) as sender,
    ):
        put_all(sender, range(1))
        assert sink.arrived(1)
    assert np.shares_memory(sink.groups[0].images_mchw, sink.memory)
    assert sink.memory.any()


def test_jpeg_groups_arrive() -> None:
    sink = FakeSink()
    with (
        receiving(sink) as receiver,
        sending(receiver.address, make_hello(), encoding="jpeg") as sender,
    ):
        put_all(sender, range(5))
        assert sender.close(LONG_S)
    assert [group.recipe.counter for group in sink.groups] == list(range(5))
    assert sender.counters()["busy_s/encode"] > 0


def test_a_slow_trainer_is_not_flooded(endpoint: Endpoint) -> None:
    sink = FakeSink(room=3)
    with (
        receiving(sink, endpoint) as receiver,
        sending(receiver.address, make_hello(), queue_groups=2) as sender,
    ):
        put_all(sender, range(5))
        assert sink.arrived(3)
        assert not sender.put(make_group(5), 0.0)
        assert receiver.counters().credits_in_flight == 0
        for done in range(3, 9):
            sink.make_room(1)
            assert sink.arrived(done + 1 if done < 5 else 5)
        assert seen(sink) == list(range(5))
        assert sink.most_in_flight <= 4
        assert adds_up(receiver)


def test_waiting_for_credits_is_counted() -> None:
    sink = FakeSink(room=0)
    with (
        receiving(sink) as receiver,
        sending(receiver.address, make_hello(), queue_groups=1) as sender,
    ):
        put_all(sender, range(1))
        assert not sender.put(make_group(1), 0.05)
        assert sender.counters()["wait_s/credits"] >= 0.05
        waiter = threading.Thread(target=put_all, args=(sender, range(1, 2)))
        waiter.start()
        sink.make_room(2)
        assert sink.arrived(2)
        waiter.join(LONG_S)
        assert seen(sink) == [0, 1]


def test_sampling_triggers_credits_at_once() -> None:
    group_bytes = make_group().num_bytes
    limiter = RateLimiter(samples_per_insert=1, max_reuse=2, batch=4)
    pool = Pool(max_bytes=40 * group_bytes, group_bytes=group_bytes, max_reuse=2, seed=0)
    intake = Intake(limiter, pool)
    # No heartbeat and no silence check falls into the test: only the wake can issue credits.
    with (
        receiving(intake, silence_s=10_000.0) as receiver,
        sending(receiver.address, make_hello(), heartbeat_s=10_000.0) as sender,
    ):
        producer = threading.Thread(target=produce, args=(sender,))
        producer.start()
        for _ in range(200):
            assert intake.wait_ready(LONG_S)
            for sampled in intake.try_sample(4) or pytest.fail("ready but not sampled"):
                counter = sampled.group.recipe.counter
                assert np.array_equal(sampled.group.images_mchw, images_of(counter))
        receiver.announce_end()
        producer.join(LONG_S)
        assert sender.close(LONG_S)
        assert receiver.drain(LONG_S)
        counters, intake_counters = receiver.counters(), intake.counters()
    assert counters.received == intake_counters.received
    now = intake_counters
    assert now.received == now.trained + now.evicted_unused + now.left
    assert now.credits_in_flight == counters.lost == 0
    assert counters.sent == counters.received == sender.counters()["groups_sent"]


def test_end_unblocks_the_renderer_and_counts_what_was_not_sent() -> None:
    sink = FakeSink(room=2)
    with (
        receiving(sink) as receiver,
        sending(receiver.address, make_hello(), queue_groups=3) as sender,
    ):
        put_all(sender, range(5))
        assert sink.arrived(2)
        outcome: list[bool] = []
        renderer = threading.Thread(
            target=lambda: outcome.append(sender.put(make_group(9), LONG_S))
        )
        renderer.start()
        receiver.announce_end("done")
        renderer.join(LONG_S)
        assert outcome == [False]
        assert sender.end_seen.wait(LONG_S)
        assert sender.counters()["groups_unsent"] == 4
        assert sender.close(LONG_S)
        assert receiver.drain(LONG_S)
        view = only_peer(receiver)
        assert view.counters["groups_unsent"] == 4
        assert (view.connection, view.sent, view.received) == ("ended", 2, 2)


def test_close_from_several_threads_at_once() -> None:
    sink = FakeSink()
    with receiving(sink) as receiver:
        sender = Sender([receiver.address], make_hello())
        put_all(sender, range(10))
        outcomes: list[bool] = []
        closers = [
            threading.Thread(target=lambda: outcomes.append(sender.close(LONG_S))) for _ in range(4)
        ]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(LONG_S)
        assert outcomes == [True] * 4
        assert seen(sink) == list(range(10))


def test_drain_gives_up_on_time() -> None:
    sink = FakeSink()
    with receiving(sink) as receiver, sending(receiver.address, make_hello()) as sender:
        put_all(sender, range(1))
        assert sink.arrived(1)
        assert not receiver.drain(0.0)


def test_a_wrong_run_id_is_rejected_with_the_reason() -> None:
    with (
        receiving(FakeSink()) as receiver,
        sending(receiver.address, make_hello(run_id="other"), queue_groups=1) as sender,
        pytest.raises(StreamRejected, match=f"run id 'other'.*{RUN_ID}"),
    ):
        put_all(sender, range(2))


def test_unfit_groups_are_refused_where_they_are_made() -> None:
    with receiving(FakeSink()) as receiver, sending(receiver.address, make_hello()) as sender:
        with pytest.raises(ValueError, match="HELLO announced"):
            sender.put(make_group(0, (2, 3, 8, 9)), 0.0)
        with pytest.raises(ValueError, match="stream"):
            sender.put(make_group(0, stream=5), 0.0)
        with pytest.raises(ValueError, match="counter_not_finite"):
            sender.publish_status({"x": float("inf")}, "running")


def test_status_and_control_reach_the_trainer() -> None:
    sink = FakeSink()
    with receiving(sink) as receiver:
        control = ControlClient(receiver.address, make_hello(role="control", stream=0))
        control.status("loading", {"restarts": 1.0})
        wait_until(lambda: [v.state for v in receiver.peers()] == ["loading"])
        with sending(receiver.address, make_hello()) as sender:
            sender.publish_status({"images_rendered": 4.0}, "running")
            put_all(sender, range(3))
            assert sink.arrived(3)
            wait_until(lambda: "images_rendered" in only_peer(receiver).counters)
            assert only_peer(receiver).counters["restarts"] == 1.0
            control.error("the engine was killed", stream=1)
            wait_until(lambda: receiver.counters().credits_in_flight == 0)
            assert only_peer(receiver).first_error == "the engine was killed"
            receiver.announce_end()
            assert control.end_seen.wait(LONG_S)
            assert control.close(LONG_S)


@pytest.mark.parametrize("what", ["frames", "bytes"])
def test_junk_is_dropped_and_the_stream_goes_on(what: str) -> None:
    sink = FakeSink()
    with receiving(sink, tcp_endpoint()) as receiver:
        if what == "bytes":
            port = int(receiver.address.rsplit(":", 1)[1])
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        else:
            with RawDealer(receiver.address, make_hello("junk")) as junk:
                for frames in ([b"x"], [b"", b""], [b"x" * 1000, b"y"], [b"a"] * 9):
                    junk.socket.send_multipart(frames)
                wait_until(
                    lambda: (
                        sum(receiver.counters().malformed.values())
                        + sum(receiver.counters().discarded.values())
                        == 4
                    )
                )
        with sending(receiver.address, make_hello("good")) as sender:
            put_all(sender, range(20))
            assert sender.close(LONG_S)
        assert seen(sink) == list(range(20))


def test_one_address_is_enough_to_find_all_trainers() -> None:
    sinks = [FakeSink() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        receivers = [
            stack.enter_context(receiving(sink, trainer_index=index))
            for index, sink in enumerate(sinks)
        ]
        for receiver in receivers:
            receiver.set_addresses([receiver.address for receiver in receivers])
        # Position 2 with a fan-out of two serves trainers 1 and 2: trainer 0 only introduces them.
        sender = stack.enter_context(
            sending(receivers[0].address, make_hello(), fan_out=2, position=2)
        )
        producer = threading.Thread(target=produce, args=(sender,))
        producer.start()
        assert sinks[1].arrived(10)
        assert sinks[2].arrived(10)
        assert receivers[0].drain(LONG_S)
        assert only_peer(receivers[0]).connection == "ended"
        receivers[1].announce_end()
        producer.join(LONG_S)
        assert sender.close(LONG_S)
        assert sum(len(sink.groups) for sink in sinks) == sender.counters()["groups_sent"]


class SmallSink(FakeSink):
    """Fails at its third group."""

    def insert(self, group: Group) -> None:
        if len(self.groups) == 2:
            raise MemoryError
        super().insert(group)


def test_counts_are_told_after_the_thread_has_failed() -> None:
    sink = SmallSink()
    with receiving(sink) as receiver, sending(receiver.address, make_hello()) as sender:
        put_all(sender, range(3))
        wait_until(lambda: not receiver.running)
        assert receiver.counters().received == len(sink.groups) == 2
        with pytest.raises(StreamError, match="MemoryError"):
            receiver.peers()
        with pytest.raises(StreamError, match="MemoryError"):
            receiver.drain(LONG_S)


def test_groups_above_the_bound_are_refused_at_start() -> None:
    with pytest.raises(StreamError, match=r"stream\.max_group_bytes"):
        Receiver(tcp_endpoint(), RUN_ID, FakeSink(), image_shape=SHAPE, max_group_bytes=10)
