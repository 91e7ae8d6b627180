"""Connections are shared out over a trainer's I/O threads: keys are decrypted in parallel."""

import sys
from pathlib import Path

import pytest

from online_synclr.stream.endpoints import tcp_endpoint
from online_synclr.stream.keys import RANKS, KeyFolder, load_generator_key
from tests.stream_ends import put_all, receiving, sending
from tests.stream_helpers import FakeSink, make_hello

# Senders of this process have one each, number 0: only a receiver has a number 1.
SECOND = "ZMQbg/IO/1"


def second_threads() -> list[Path]:
    return [
        task
        for task in Path("/proc/self/task").iterdir()
        if (task / "comm").read_text().strip() == SECOND
    ]


def switches_of(task: Path) -> int:
    """How often it has waited for something to do."""
    lines = (task / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("voluntary_ctxt")).split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="threads are told apart by their names")
def test_the_second_thread_serves_the_second_connection(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path / "keys")
    keys.make()
    key = load_generator_key(keys.generator(RANKS))
    sink = FakeSink()
    assert not second_threads()
    with (
        receiving(sink, tcp_endpoint(guarded=True), keys=keys, io_threads=2) as receiver,
        sending(receiver.address, make_hello("g0", stream=1), key=key) as first,
        sending(receiver.address, make_hello("g1", stream=2), key=key) as second,
    ):
        put_all(first, range(1), stream=1)
        put_all(second, range(1, 2), stream=2)
        assert sink.arrived(2)
        (task,) = second_threads()
        before = switches_of(task)
        for counter in range(2, 12, 2):
            put_all(first, range(counter, counter + 1), stream=1)
            put_all(second, range(counter + 1, counter + 2), stream=2)
            assert sink.arrived(counter + 2)
        assert switches_of(task) > before


def test_one_thread_is_the_default() -> None:
    with receiving(FakeSink()):
        assert not second_threads()
