"""Whatever arrives, a trainer goes on, counts it, and holds no more memory for it."""

from __future__ import annotations

import random

import pytest

from benchmarks.hostile_messages import HostileMessages
from online_synclr.stream.admission import Terms
from online_synclr.stream.conduct import MAX_FAULTS, MAX_ROUTES, Conduct
from online_synclr.stream.endpoints import ipc_endpoint
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import GroupHeader, Reject, Status
from online_synclr.stream.trainer_side import TrainerSide
from tests.stream_ends import RawDealer, adds_up, put_all, receiving, seen, sending, wait_until
from tests.stream_helpers import (
    RUN_ID,
    SHAPE,
    FakeSink,
    images_of,
    make_hello,
    make_recipe,
    with_origin,
)


def hostile(seed: int, generator_id: str = "g9") -> HostileMessages:
    payload = images_of(0).tobytes()
    header = GroupHeader(
        recipe=with_origin(make_recipe(0)), shape=SHAPE, encoding="raw", payload_bytes=len(payload),
        sequence=0, lease=1,
    )  # fmt: skip
    return HostileMessages(seed, make_hello(generator_id), header, payload)


def _side(sink: FakeSink) -> TrainerSide:
    side = TrainerSide(
        terms=Terms(run_id=RUN_ID, image_shape=SHAPE),
        sink=sink,
        credits_per_generator=4,
        silence_s=8.0,
    )
    side.addresses = ["tcp://127.0.0.1:1"]
    return side


@pytest.mark.parametrize("seed", range(4))
def test_every_message_is_taken_in_or_counted_by_reason(seed: int) -> None:
    sink = FakeSink(room=50)
    side, source, order = _side(sink), hostile(seed), random.Random(seed)
    for index in range(3000):
        # Connections come and go, so that being cut off does not end the test.
        route = b"%d" % (index // 120 + order.randrange(2))
        side.on_frames(route, source.next(), float(index) / 100)
        side.issue_credits()
        if index % 500 == 0:
            side.check_silence(float(index) / 100)
    counts = side.counters()
    dropped = sum(counts.malformed.values()) + sum(counts.discarded.values())
    assert counts.messages == 3000
    assert counts.messages == counts.taken + dropped
    assert counts.sent == counts.received + counts.lost + sum(counts.discarded.values())
    assert counts.received == len(sink.groups)
    assert 0 <= counts.credits_in_flight <= 50
    expected = {
        "checksum",
        "header",
        "header_size",
        "frame_count",
        "magic",
        "unknown_peer",
        "cut_off",
    }
    assert expected | {"protocol_version", "unexpected"} <= set(counts.malformed)
    assert {"header", "payload_size"} <= set(counts.discarded)


def test_a_live_trainer_serves_its_generator_among_junk() -> None:
    sink = FakeSink()
    with (
        receiving(sink, ipc_endpoint()) as receiver,
        sending(receiver.address, make_hello()) as good,
    ):
        for seed in range(5):
            source = hostile(seed)
            with RawDealer(receiver.address, make_hello("g9")) as dealer:
                for _ in range(150):
                    dealer.socket.send_multipart(source.next())
                put_all(good, range(10 * seed, 10 * seed + 10))
                read = 151 * (seed + 1) + 10 * (seed + 1)
                wait_until(lambda read=read: receiver.counters().messages >= read)
        wait_until(lambda: len([c for c in seen(sink) if c is not None]) >= 50)
        assert receiver.running
        assert adds_up(receiver)
        counts = receiver.counters()
        dropped = sum(counts.malformed.values()) + sum(counts.discarded.values())
        assert counts.messages == counts.taken + dropped
        assert counts.malformed["cut_off"] > 0


def test_who_keeps_sending_junk_is_cut_off_and_told() -> None:
    side = _side(FakeSink(room=50))
    side.on_frames(b"bad", pack(make_hello("g9")), 0.0)
    side.on_frames(b"good", pack(make_hello("g1")), 0.0)
    side.issue_credits()
    answers = [side.on_frames(b"bad", [b"junk"], 0.0) for _ in range(MAX_FAULTS)]
    assert not any(answers[:-1])
    (told,) = answers[-1]
    assert isinstance(told.message, Reject)
    assert "cut off" in told.message.reason
    assert side.on_frames(b"bad", pack(make_hello("g9")), 0.0) == []
    assert side.counters().malformed["cut_off"] == 1
    views = {view.generator_id: view for view in side.views(0.0)}
    assert (views["g9"].connection, views["g1"].connection) == ("failed", "alive")
    assert side.counters().credits_in_flight == 4, "its credits are back, the other's are not"


def test_one_fault_among_many_good_messages_is_forgiven() -> None:
    side = _side(FakeSink(room=50))
    side.on_frames(b"x", pack(make_hello()), 0.0)
    status = pack(Status(state="running", counters={}, sent=0))
    for _ in range(3 * MAX_FAULTS):
        side.on_frames(b"x", [b"junk"], 0.0)
        side.on_frames(b"x", status, 0.0)
        side.on_frames(b"x", status, 0.0)
    assert "cut_off" not in side.counters().malformed


def test_the_memory_of_faults_is_bounded() -> None:
    conduct = Conduct()
    for index in range(3 * MAX_ROUTES):
        conduct.bad(b"%d" % index)
    assert len(conduct._records) == MAX_ROUTES
