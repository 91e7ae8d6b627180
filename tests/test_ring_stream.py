"""Shared memory under a real stream: threads and killed, stopped or hindered processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest

from online_synclr.stream import rings
from online_synclr.stream.limiter import RateLimiter
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.ring_memory import GeneratorRing, TrainerRing
from online_synclr.stream.sender import Sender
from tests.stream_ends import (
    LONG_S,
    RING_BYTES,
    StepClock,
    adds_up,
    produce,
    put_all,
    receiving,
    seen,
    sending,
    wait_until,
)
from tests.stream_helpers import FakeSink, images_of, make_group, make_hello
from trainer.intake import Intake
from trainer.pool import Pool

HINDERED_AT = 50
CREDITS = 4
"""Of each generator: what `receiving` gives."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions read from rings, so that a test knows which way its groups came."""
    positions: list[int] = []
    read = TrainerRing.read

    def noting(ring: TrainerRing, position: int, out_mchw: np.ndarray) -> None:
        read(ring, position, out_mchw)
        positions.append(position)

    monkeypatch.setattr(TrainerRing, "read", noting)
    return positions


def rings_of(receiver: Receiver) -> int:
    assert receiver._rings is not None
    return len(receiver._rings)


def test_every_group_arrives_once_and_in_order(reads: list[int]) -> None:
    sink = FakeSink()
    with receiving(sink, shared_memory_bytes=RING_BYTES) as receiver:
        with sending(receiver.address, make_hello()) as sender:
            put_all(sender, range(1000))
            assert sender.close(LONG_S)
        assert seen(sink) == reads == list(range(1000))
        counters = receiver.counters()
        assert (counters.sent, counters.received, counters.lost) == (1000, 1000, 0)
        assert rings_of(receiver) == 0
    assert sink.most_in_flight <= 4


def test_groups_land_in_the_pool_and_stay_until_the_next_batch(reads: list[int]) -> None:
    group_bytes = make_group().num_bytes
    limiter = RateLimiter(samples_per_insert=2, max_reuse=2, batch=4)
    pool = Pool(
        max_bytes=limiter.groups_needed() * group_bytes,
        group_bytes=group_bytes,
        max_reuse=2,
        seed=0,
        max_batch=4,
    )
    intake = Intake(limiter, pool)
    with (
        receiving(intake, shared_memory_bytes=RING_BYTES) as receiver,
        sending(receiver.address, make_hello()) as sender,
    ):
        producer = threading.Thread(target=produce, args=(sender,))
        producer.start()
        for _ in range(300):
            assert intake.wait_ready(LONG_S)
            batch = intake.try_sample(4) or pytest.fail("ready but not sampled")
            received = intake.counters().received
            # Others come and take the places of those that leave, while these are looked at.
            if intake.credits_to_issue(intake.counters().credits_in_flight):
                wait_until(lambda received=received: intake.counters().received > received)
            for sampled in batch:
                assert np.shares_memory(sampled.group.images_mchw, pool.arena.memory)
                expected = images_of(sampled.group.recipe.counter)
                assert np.array_equal(sampled.group.images_mchw, expected)
        receiver.announce_end()
        producer.join(LONG_S)
        assert sender.close(LONG_S)
        assert receiver.drain(LONG_S)
        assert receiver.counters().received == intake.counters().received == len(reads)


@pytest.mark.parametrize("receives", [True, False])
def test_either_side_may_do_without(receives: bool, reads: list[int]) -> None:
    sink = FakeSink()
    with (
        receiving(sink, shared_memory_bytes=RING_BYTES if receives else 0) as receiver,
        sending(receiver.address, make_hello(), shared_memory=not receives) as sender,
    ):
        put_all(sender, range(50))
        assert sender.close(LONG_S)
    assert seen(sink) == list(range(50))
    assert not reads


def test_without_memory_groups_are_sent_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    def none(layout: object) -> TrainerRing:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rings, "TrainerRing", none)
    said: list[str] = []
    sink = FakeSink()
    with receiving(sink, shared_memory_bytes=RING_BYTES, say=said.append) as receiver:
        assert len(said) == 1, "it is found at the start, before any generator comes"
        assert "No space left" in said[0]
        with sending(receiver.address, make_hello()) as sender:
            put_all(sender, range(50))
            assert sender.close(LONG_S)
    assert seen(sink) == list(range(50))
    assert not reads
    assert len(said) == 1


def test_a_generator_that_cannot_open_it_sends_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    opened = os.open

    def forbidden(path: str | Path, *arguments: int) -> int:
        if "/fd/" in str(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", forbidden)
    said: list[str] = []
    sink = FakeSink()
    with (
        receiving(sink, shared_memory_bytes=RING_BYTES, say=said.append) as receiver,
        sending(receiver.address, make_hello()) as sender,
    ):
        put_all(sender, range(50))
        assert sender.close(LONG_S)
    assert seen(sink) == list(range(50))
    assert not reads
    assert len(said) == 1
    assert "same user" in said[0]


def test_rings_of_all_trainers_are_used_by_one_generator(reads: list[int]) -> None:
    sinks = [FakeSink(room=20), FakeSink(room=20)]
    with (
        receiving(sinks[0], shared_memory_bytes=RING_BYTES) as first,
        receiving(sinks[1], shared_memory_bytes=RING_BYTES, trainer_index=1) as second,
    ):
        addresses = [first.address, second.address]
        first.set_addresses(addresses)
        second.set_addresses(addresses)
        sender = Sender(addresses, make_hello())
        put_all(sender, range(40))
        assert sender.close(LONG_S)
    assert sorted(seen(sinks[0]) + seen(sinks[1])) == list(range(40))
    assert sorted(reads) == sorted([*range(20), *range(20)])


# --- processes ---


def hindered_generator(address: str, what: signal.Signals, stream: int) -> None:
    """Body of a process that is struck in the middle of writing a group into its ring."""
    write = GeneratorRing.write

    def struck(ring: GeneratorRing, index: int, images_mchw: np.ndarray) -> None:
        if ring.position + index == HINDERED_AT:
            slot = HINDERED_AT % ring.num_slots
            ring._shared.stamps[slot] = 0
            half = images_mchw.size // 2
            ring._shared.slots[slot][:half] = images_mchw.reshape(-1)[:half]
            # To this thread: of a process's signal another thread takes notice, a little later.
            signal.pthread_kill(threading.get_ident(), what)
        write(ring, index, images_mchw)

    GeneratorRing.write = struck  # type: ignore[method-assign]
    sender = Sender([address], make_hello(stream=stream), queue_groups=4)
    for counter in range(10**9):
        if sender.end_seen.is_set():
            break
        sender.put(make_group(counter, stream=stream), LONG_S)
    sender.close(LONG_S)


@contextmanager
def process(body: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    child = multiprocessing.get_context("spawn").Process(target=body, args=arguments, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join(LONG_S)


def test_a_generator_killed_in_the_middle_of_a_write_is_replaced(reads: list[int]) -> None:
    sink, clock = FakeSink(), StepClock()
    with receiving(sink, silence_s=8.0, clock=clock, shared_memory_bytes=RING_BYTES) as receiver:
        with process(hindered_generator, receiver.address, signal.SIGKILL, 1) as child:
            child.join(LONG_S)
            assert child.exitcode == -signal.SIGKILL
        clock.pass_until(lambda: receiver.drain(0.0), receiver, step_s=0.25)
        # Of those sent, what its own ZeroMQ had not passed on died with it; not so the half one.
        before = len(sink.groups)
        assert HINDERED_AT - CREDITS <= before <= HINDERED_AT
        assert seen(sink) == list(range(before))
        assert rings_of(receiver) == sink.in_flight == 0
        # The next start of its engine: another stream, another ring.
        with sending(receiver.address, make_hello(stream=2)) as sender:
            put_all(sender, range(20), stream=2)
            assert sender.close(LONG_S)
        assert seen(sink)[before:] == list(range(20))
        assert reads == [*range(before), *range(20)]
        assert adds_up(receiver)
        assert receiver.counters().credits_in_flight == 0


def test_a_stopped_writer_that_wakes_late_writes_to_nobody(reads: list[int]) -> None:
    sink, clock = FakeSink(room=HINDERED_AT + 30), StepClock()
    with (
        receiving(sink, silence_s=8.0, clock=clock, shared_memory_bytes=RING_BYTES) as receiver,
        process(hindered_generator, receiver.address, signal.SIGSTOP, 1) as child,
    ):
        stopped = psutil.Process(child.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
        clock.pass_until(lambda: receiver.drain(0.0), receiver, step_s=0.25)
        assert rings_of(receiver) == 0
        before = len(sink.groups)
        assert HINDERED_AT - CREDITS <= before <= HINDERED_AT
        # Another generator is given the credits, a ring and, perhaps, the same memory.
        with sending(receiver.address, make_hello("g1")) as other:
            put_all(other, range(20))
            assert sink.arrived(before + 20)
            os.kill(child.pid or 0, signal.SIGCONT)
            # What it finishes now has no credit any more; it is welcomed anew and goes on.
            wait_until(lambda: receiver.counters().discarded.get("late", 0) > 0)
            wait_until(lambda: rings_of(receiver) == 2)
            assert other.close(LONG_S)
        assert sink.arrived(HINDERED_AT + 30)
        late = receiver.counters().discarded["late"]
        assert late <= CREDITS
        assert receiver.counters().discarded == {"late": late}
        got = seen(sink)
        assert got[:before] == list(range(before))
        assert got[before : before + 20] == list(range(20))
        assert got[before + 20 :] == list(range(before + late, HINDERED_AT + late + 10))
        receiver.announce_end()
        child.join(LONG_S)
        assert adds_up(receiver)
