"""Groups a second through the stream between two processes, against memcpy in the same run.

    python -m benchmarks.stream [--groups 4000] [--repeats 5] [--side 256] [--transport ipc curve]

One process renders (the same group over and over), one receives into a sink that only counts;
checksum, header and credits are those of a run; `curve` is tcp under keys, as runs have it, `tcp`
the same without. Repeats of all cases are interleaved, medians are
printed with the lowest and highest. The ratio is to a single-thread memcpy of the same bytes, timed
before every repeat.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import zmq

from online_synclr.stream.endpoints import make_endpoint
from online_synclr.stream.group import Group, Recipe
from online_synclr.stream.keys import RANKS, GeneratorKey, KeyFolder, load_generator_key
from online_synclr.stream.messages import Hello
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender

Shape = tuple[int, int, int, int]
WARM_UP_GROUPS = 64
CASES = ("ipc", "tcp", "curve")


class CountingSink:
    """Has room for `total` groups; `done` is set when the last one is there."""

    def __init__(self, total: int) -> None:
        self.received = 0
        self.total = total
        self.started_s = 0.0
        self.finished_s = 0.0
        self.done = threading.Event()

    def credits_to_issue(self, in_flight: int) -> int:
        """Whatever is missing to the total."""
        return self.total - self.received - in_flight

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
    recipe = Recipe(
        caption="a red fox in the snow",
        concept="red fox",
        source="bench",
        template="bench",
        background="",
        relation="",
        run_seed=0,
        incarnation=0,
        stream=0,
        counter=0,
        num_images=shape[0],
        llm_fingerprint="bench",
        image_fingerprint="bench",
    )
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sender = Sender([address], make_hello(shape), queue_groups=16, key=key)
    while not sender.end_seen.is_set():
        sender.put(Group(recipe, images), 1.0)
    sender.close(5.0)


def stream_rate(transport: str, shape: Shape, num_groups: int, num_credits: int) -> float:
    """Groups a second, from the end of the warm-up to the last group."""
    sink = CountingSink(num_groups + WARM_UP_GROUPS)
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFolder(Path(folder))
        keys.make()
        return _rate(transport, shape, sink, num_credits, keys if transport == "curve" else None)


def _rate(
    transport: str, shape: Shape, sink: CountingSink, num_credits: int, keys: KeyFolder | None
) -> float:
    receiver = Receiver(
        make_endpoint("ipc" if transport == "ipc" else "tcp", "127.0.0.1", 0, 0),
        "bench",
        sink,
        image_shape=shape,
        credits_per_generator=num_credits,
        keys=keys,
    )
    receiver.start()
    key = None if keys is None else load_generator_key(keys.generator(RANKS))
    child = multiprocessing.get_context("spawn").Process(
        target=generate, args=(receiver.address, shape, key)
    )
    child.start()
    try:
        if not sink.done.wait(300.0):
            raise TimeoutError(f"{sink.received} of {sink.total} groups after 300 s")
        receiver.announce_end()
        receiver.drain(30.0)
    finally:
        receiver.close()
        child.join(30.0)
        child.kill()
    return (sink.total - WARM_UP_GROUPS) / (sink.finished_s - sink.started_s)


def memcpy_rate(shape: Shape, num_groups: int) -> float:
    """Groups a second copied by one thread, over buffers larger than the caches."""
    count = max(2, min(64, 2**29 // int(np.prod(shape))))
    source = np.ones((count, *shape), np.uint8)
    target = np.zeros_like(source)
    started_s = time.perf_counter()
    for index in range(num_groups):
        np.copyto(target[index % count], source[index % count])
    return num_groups / (time.perf_counter() - started_s)


def describe_machine() -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}, {cpu_model()} x "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, pyzmq {zmq.__version__}, "
        f"libzmq {zmq.zmq_version()}, numpy {np.__version__}, load {os.getloadavg()[0]:.1f}"
    )


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def main() -> None:
    """Print one row a repeat, then the medians."""
    parser = argparse.ArgumentParser(description="Throughput of the stream.")
    parser.add_argument("--groups", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--credits", type=int, default=16)
    parser.add_argument("--transport", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    shape = (options.images, 3, options.side, options.side)
    print(describe_machine())
    print(f"group {shape} uint8, {np.prod(shape) / 1e3:.0f} kB, {options.credits} credits")
    print(f"{'repeat':>6} {'transport':>9} {'groups/s':>9} {'memcpy/s':>9} {'ratio':>6}")
    ratios: dict[str, list[float]] = {name: [] for name in options.transport}
    for repeat in range(options.repeats):
        for name in options.transport:
            copied = memcpy_rate(shape, options.groups)
            rate = stream_rate(name, shape, options.groups, options.credits)
            ratios[name].append(rate / copied)
            print(f"{repeat:>6} {name:>9} {rate:>9.0f} {copied:>9.0f} {rate / copied:>6.2f}")
    for name, values in ratios.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"median {name}: {statistics.median(values):.2f} of memcpy ({spread})")


if __name__ == "__main__":
    main()
