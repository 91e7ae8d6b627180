"""Groups a second through the stream between two processes, against memcpy in the same run.

    python -m benchmarks.stream [--side 256 64] [--transport shm ipc tcp curve] [--credits 16]

| case | |
| --- | --- |
| bare | the rings' memory with nothing but copies on both sides (`benchmarks.bare_ring`) |
| shm | headers over ipc, groups through the shared-memory ring, as a run on one host has it |
| ipc | groups as frames through the Unix socket |
| tcp | the same through loopback without encryption, which a run never uses |
| curve | the same under keys, as a run over several hosts has it |

One process sends stamped groups (`benchmarks.stamped`, synthetic), the other receives them into a
trainer's own pool of `--pool` MiB, going round through its memory, and checks stamps and content
there; checksum, header and credits are those of a run. memcpy is one thread that copies groups of
that size into a block as large as the pool, timed in turn with the cases. CPU is that of the
receiving thread alone, its checks and the pool's bookkeeping included: where the machine is shared,
the steadier figure; the last column says which part of it a memcpy would have taken.
"""

import argparse
import math
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.bare_ring import bare_ring_rate
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from benchmarks.stamped import (
    CHECK_EVERY,
    NUM_PICTURES,
    WARM_UP_GROUPS,
    LandingSink,
    StampedGroups,
    make_recipe,
)
from online_synclr.stream.endpoints import make_endpoint
from online_synclr.stream.group import Group
from online_synclr.stream.keys import RANKS, GeneratorKey, KeyFolder, load_generator_key
from online_synclr.stream.messages import Hello
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender

Shape = tuple[int, int, int, int]
CASES = ("shm", "ipc", "tcp", "curve")
SHARED_MEMORY_BYTES = 2**30
LONG_S = 300.0


class CountingSink:
    """Has room for `total` groups; `done` is set when the last one is there."""

    def __init__(self, total: int) -> None:
        self.received = 0
        self.total = total
        self.started_s = 0.0
        self.finished_s = 0.0
        self.done = threading.Event()
        self._images = np.empty(0, np.uint8)

    def credits_to_issue(self, in_flight: int) -> int:
        """Whatever is missing to the total."""
        return self.total - self.received - in_flight

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """The same for all: none is kept."""
        if self._images.shape != tuple(shape):
            self._images = np.empty(tuple(shape), np.uint8)
        return self._images

    def insert(self, group: Group) -> None:
        """Count it; the clock starts after the warm-up."""
        self.received += 1
        if self.received == WARM_UP_GROUPS:
            self.started_s = time.perf_counter()
        if self.received == self.total:
            self.finished_s = time.perf_counter()
            self.done.set()

    def reclaim(self, num_credits: int) -> None:
        """The one peer does not die."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """There is always room."""


def make_hello(shape: Shape) -> Hello:
    return Hello(
        run_id="bench",
        generator_id="g0",
        role="engine",
        incarnation=0,
        stream=0,
        image_shape=shape,
    )


def generate(address: str, shape: Shape, key: GeneratorKey | None) -> None:
    recipe = make_recipe(shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sender = Sender([address], make_hello(shape), queue_groups=16, key=key)
    while not sender.end_seen.is_set():
        sender.put(Group(recipe, images), 1.0)
    sender.close(5.0)


def generate_stamped(address: str, shape: Shape, key: GeneratorKey | None) -> None:
    groups = StampedGroups(shape)
    with_room = True
    group = groups.next()
    sender = Sender([address], make_hello(shape), queue_groups=16, key=key)
    while not sender.end_seen.is_set():
        with_room = sender.put(group, 1.0)
        if with_room:
            group = groups.next()
    sender.close(5.0)


def stream_rate(
    transport: str,
    shape: Shape,
    num_groups: int,
    num_credits: int,
    pool_bytes: int,
    check_every: int = CHECK_EVERY,
) -> tuple[float, float]:
    """Groups a second from the end of the warm-up to the last group; CPU seconds for each.

    Raises:
        RuntimeError: a group did not arrive as it was sent.
        TimeoutError: they do not come.
    """
    total = num_groups + WARM_UP_GROUPS
    sink = LandingSink(
        shape,
        total,
        warm_up=WARM_UP_GROUPS,
        pool_bytes=pool_bytes,
        check_every=check_every,
    )
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFolder(Path(folder))
        keys.make()
        _run(transport, shape, sink, num_credits, keys if transport == "curve" else None)
    if sink.fault is not None:
        raise RuntimeError(sink.fault)
    return sink.rate_per_s, sink.cpu_s_per_group


def _run(
    transport: str, shape: Shape, sink: LandingSink, num_credits: int, keys: KeyFolder | None
) -> None:
    said: list[str] = []
    receiver = Receiver(
        make_endpoint("ipc" if transport in ("shm", "ipc") else "tcp", "127.0.0.1", 0, 0),
        "bench",
        sink,
        image_shape=shape,
        credits_per_generator=num_credits,
        keys=keys,
        shared_memory_bytes=SHARED_MEMORY_BYTES if transport == "shm" else 0,
        say=said.append,
    )
    receiver.start()
    key = None if keys is None else load_generator_key(keys.generator(RANKS))
    child = multiprocessing.get_context("spawn").Process(
        target=generate_stamped, args=(receiver.address, shape, key)
    )
    child.start()
    try:
        if not sink.done.wait(LONG_S):
            raise TimeoutError(f"not {sink.total} groups after {LONG_S:.0f} s")
        receiver.announce_end()
        receiver.drain(30.0)
    finally:
        receiver.close()
        child.join(30.0)
        child.kill()
    if said:
        # A line of the receiver's means that it is not the case asked for that was measured.
        raise RuntimeError(said[0])


def memcpy_rate(shape: Shape, num_groups: int, pool_bytes: int) -> tuple[float, float]:
    """Groups a second copied by one thread into a block as large as the pool; CPU s for each."""
    source = np.ones((NUM_PICTURES, *shape), np.uint8)
    target = np.empty((pool_bytes // source[0].nbytes, *shape), np.uint8)
    target[:] = 0
    started_s, cpu_started_s = time.perf_counter(), time.thread_time()
    for index in range(num_groups):
        np.copyto(target[index % len(target)], source[index % NUM_PICTURES])
    cpu_s = time.thread_time() - cpu_started_s
    return num_groups / (time.perf_counter() - started_s), cpu_s / num_groups


def measure(options: argparse.Namespace, side: int) -> list[list[str]]:
    """Rows of one size of group."""
    shape = (options.images, 3, side, side)
    group_bytes = int(np.prod(shape))
    num_groups = options.groups or max(1000, options.mib * 2**20 // group_bytes)
    pool_bytes = options.pool * 2**20
    names = ["memcpy", "bare", *options.transport]
    cpu_us: dict[str, list[float]] = {name: [] for name in names}

    def case(name: str) -> Callable[[], float]:
        def once() -> float:
            if name == "memcpy":
                rate, cpu_s = memcpy_rate(shape, num_groups, pool_bytes)
            elif name == "bare":
                # It spins: its CPU time is its time.
                rate = bare_ring_rate(shape, num_groups, options.credits, pool_bytes)
                cpu_s = math.nan
            else:
                rate, cpu_s = stream_rate(name, shape, num_groups, options.credits, pool_bytes)
            cpu_us[name].append(1e6 * cpu_s)
            return rate

        return once

    cases = {name: case(name) for name in names}
    values = interleave(cases, options.repeats, warm_up=False)
    size = f"{group_bytes / 1e3:.0f} kB"
    return [
        [
            size,
            name,
            f"{spread(values[name]):.0f}",
            f"{ratio(values[name], values['memcpy']):.2f}",
            f"{ratio(values[name], values['bare']):.2f}",
            "" if name == "bare" else f"{spread(cpu_us[name]):.0f}",
            "" if name == "bare" else f"{ratio(cpu_us['memcpy'], cpu_us[name]):.2f}",
        ]
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of medians with the lowest and highest."""
    parser = argparse.ArgumentParser(description="Throughput of the stream.")
    parser.add_argument("--groups", type=int, help="for each repeat; none: as many as --mib holds")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, nargs="+", default=[256, 64])
    parser.add_argument("--credits", type=int, default=16)
    parser.add_argument("--pool", type=int, default=256, help="MiB that the groups go round in")
    parser.add_argument("--transport", nargs="+", choices=CASES, default=["shm", "ipc"])
    options = parser.parse_args(arguments)
    rows = [row for side in options.side for row in measure(options, side)]
    head = (
        *("group", "case", "groups/s", "of memcpy", "of bare"),
        *("CPU us a group", "memcpy's CPU of it"),
    )
    print(table(head, rows))
    print(f"\n{describe('pyzmq', 'numpy')}; {options.credits} credits")


if __name__ == "__main__":
    main()
