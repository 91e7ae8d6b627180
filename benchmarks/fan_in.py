"""Several generators to several trainers: throughput, credits and fairness.

    python -m benchmarks.fan_in [--generators 1 2 4 8] [--trainers 1 2] [--transport shm ipc curve]

Synthetic: generators send the same group as fast as they may, trainers only count. Everything
between is a run's: each trainer and each generator is a process with a Receiver or a Sender.

| column | |
| --- | --- |
| groups/s | over all trainers, when they take all that comes |
| credits held | by a generator at a trainer, mean; the limit is 16 |
| Jain | (sum x)^2 / (n sum x^2) over the groups that each generator delivered: 1 is equal shares |
| least, most | of an equal share, delivered by the generator with the fewest and with the most |
| half demand | the same while trainers ask for half of that rate, in batches of 16 as steps would |

A line is several short windows of full and of half demand in turn. Lines follow each other, and
between them the machine drifts; `--rounds` spreads each line's windows over the run.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.measuring import REPEATS, describe, spread, table
from benchmarks.stamped import make_recipe
from benchmarks.stream import CASES, SHARED_MEMORY_BYTES, Shape, make_hello
from online_synclr.stream.endpoints import make_endpoint
from online_synclr.stream.group import Group
from online_synclr.stream.keys import RANKS, GeneratorKey, KeyFolder, load_generator_key
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender

CREDITS = 16
BATCH = 16
LONG_S = 60.0


@dataclass(frozen=True)
class Window:
    """What one trainer counted: seconds, groups by generator, mean credits a generator held."""

    elapsed_s: float
    received: dict[str, int]
    credits_held: float


class DemandSink:
    """Takes everything, or `per_s` groups a second in batches, as a training loop would ask."""

    def __init__(self, num_generators: int) -> None:
        self._all = CREDITS * num_generators
        self._room: int | None = None
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None
        self._looks = self._held = 0
        self._images = np.empty(0, np.uint8)

    def credits_to_issue(self, in_flight: int) -> int:
        """Room for as many groups as may be in flight, or for what was asked."""
        with self._lock:
            self._looks, self._held = self._looks + 1, self._held + in_flight
            wanted = self._all if self._room is None else self._room
            return max(0, wanted - in_flight)

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """The same for all: none is kept."""
        if self._images.shape != tuple(shape):
            self._images = np.empty(tuple(shape), np.uint8)
        return self._images

    def insert(self, group: Group) -> None:
        """It is what was asked for."""
        with self._lock:
            if self._room is not None:
                self._room -= 1

    def reclaim(self, num_credits: int) -> None:
        """Nobody dies."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """To be told of more demand."""
        self._wake = wake

    def mean_in_flight(self) -> float:
        """Since the last call, over all looks at the room."""
        with self._lock:
            mean = self._held / max(1, self._looks)
            self._looks = self._held = 0
            return mean

    @contextmanager
    def demand(self, per_s: float) -> Iterator[None]:
        """Ask for `per_s` groups a second; 0: for all."""
        if not per_s:
            yield
            return
        with self._lock:
            self._room = BATCH
        stop = threading.Event()
        thread = threading.Thread(target=self._ask, args=(per_s, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with self._lock:
                self._room = None
            self._wake()

    def _ask(self, per_s: float, stop: threading.Event) -> None:
        due_s = time.monotonic()
        while not stop.is_set():
            with self._lock:
                # What was not delivered in time is not asked for twice.
                self._room = min(4 * BATCH, (self._room or 0) + BATCH)
            self._wake()
            due_s += BATCH / per_s
            stop.wait(max(0.0, due_s - time.monotonic()))


def train(
    index: int, num_generators: int, shape: Shape, transport: str, folder: Path, pipe: Connection
) -> None:
    """A trainer: says its address, is told all, then takes windows as asked until None."""
    sink = DemandSink(num_generators)
    receiver = Receiver(
        make_endpoint("ipc" if transport in ("shm", "ipc") else "tcp", "127.0.0.1", 0, 0),
        "bench",
        sink,
        image_shape=shape,
        trainer_index=index,
        credits_per_generator=CREDITS,
        keys=KeyFolder(folder) if transport == "curve" else None,
        shared_memory_bytes=SHARED_MEMORY_BYTES if transport == "shm" else 0,
    )
    with receiver:
        pipe.send(receiver.address)
        receiver.set_addresses(pipe.recv())
        _await_all(receiver, num_generators)
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            seconds, per_s = asked
            pipe.send(_window(receiver, sink, num_generators, seconds, per_s))
        receiver.announce_end()
        receiver.drain(LONG_S)


def _await_all(receiver: Receiver, num_generators: int) -> None:
    until_s = time.monotonic() + LONG_S
    while sum(view.received > 0 for view in receiver.peers()) < num_generators:
        if time.monotonic() > until_s:
            raise TimeoutError(f"not all generators have come within {LONG_S:.0f} s")
        time.sleep(0.02)


def _window(
    receiver: Receiver, sink: DemandSink, num_generators: int, seconds: float, per_s: float
) -> Window:
    with sink.demand(per_s):
        # What was in flight before is not of this window.
        time.sleep(0.2 * seconds)
        sink.mean_in_flight()
        before = {view.generator_id: view.received for view in receiver.peers()}
        began_s = time.monotonic()
        time.sleep(seconds)
        after = {view.generator_id: view.received for view in receiver.peers()}
        elapsed_s = time.monotonic() - began_s
        held = sink.mean_in_flight() / num_generators
    return Window(elapsed_s, {name: after[name] - before[name] for name in after}, held)


def generate(index: int, addresses: Sequence[str], shape: Shape, key: GeneratorKey | None) -> None:
    """A generator that is always ahead of its credits."""
    hello = msgspec.structs.replace(make_hello(shape), generator_id=f"g{index}", stream=index)
    recipe = msgspec.structs.replace(make_recipe(shape), stream=index)
    images = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
    sender = Sender(addresses, hello, queue_groups=8, position=index, key=key)
    while not sender.end_seen.is_set():
        sender.put(Group(recipe, images), 1.0)
    sender.close(5.0)


@dataclass
class Figures:
    """Of one combination, a value a window."""

    rates: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    jain: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)

    def add(self, windows: Sequence[Window]) -> float:
        """Those of all trainers at one time; the groups a second."""
        delivered: dict[str, int] = {}
        for window in windows:
            for name, count in window.received.items():
                delivered[name] = delivered.get(name, 0) + count
        shares = np.array(list(delivered.values()), float)
        rate = sum(sum(window.received.values()) / window.elapsed_s for window in windows)
        self.rates.append(rate)
        self.held.append(float(np.mean([window.credits_held for window in windows])))
        self.jain.append(jain_index(shares))
        self.least.append(float(shares.min() / shares.mean()))
        self.most.append(float(shares.max() / shares.mean()))
        return rate


def jain_index(shares: np.ndarray) -> float:
    """1 for equal shares, 1/n where one of n has all."""
    return float(shares.sum() ** 2 / (len(shares) * (shares**2).sum()))


def measure(
    num_generators: int,
    num_trainers: int,
    transport: str,
    shape: Shape,
    seconds: float,
    figures: tuple[Figures, Figures],
    num_windows: int,
) -> None:
    """Take `num_windows` windows of full, and as many of half demand."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFolder(Path(folder) / "keys")
        keys.make()
        key = load_generator_key(keys.generator(RANKS)) if transport == "curve" else None
        pipes, processes = [], []
        for index in range(num_trainers):
            ours, theirs = context.Pipe()
            told = (index, num_generators, shape, transport, keys.root, theirs)
            processes.append(context.Process(target=train, args=told))
            processes[-1].start()
            pipes.append(ours)
        addresses = [pipe.recv() for pipe in pipes]
        for pipe in pipes:
            pipe.send(addresses)
        for index in range(num_generators):
            arguments = (index, addresses, shape, key)
            processes.append(context.Process(target=generate, args=arguments))
            processes[-1].start()
        for pipe in pipes:
            pipe.recv()
        full, half = figures
        for _ in range(num_windows):
            rate = full.add(_ask(pipes, (seconds, 0.0)))
            half.add(_ask(pipes, (seconds, 0.5 * rate / num_trainers)))
        _ask_end(pipes)
        for process in processes:
            process.join(30.0)
            process.kill()


def _ask(pipes: Sequence[Connection], window: tuple[float, float]) -> list[Window]:
    for pipe in pipes:
        pipe.send(window)
    return [pipe.recv() for pipe in pipes]


def _ask_end(pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        pipe.send(None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table a transport."""
    parser = argparse.ArgumentParser(description="Many generators to few trainers.")
    parser.add_argument("--generators", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trainers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--transport", nargs="+", choices=CASES, default=["shm"])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--window-s", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="windows of each kind")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    shape = (options.images, 3, options.side, options.side)
    combinations = [(g, t) for t in options.trainers for g in options.generators]
    for transport in options.transport:
        figures = {combination: (Figures(), Figures()) for combination in combinations}
        for _ in range(options.rounds):
            for (g, t), both in figures.items():
                windows = -(-options.repeats // options.rounds)
                measure(g, t, transport, shape, options.window_s, both, windows)
        print(f"{transport}, group {shape} uint8, {CREDITS} credits\n")
        print(table(HEAD, [_row(g, t, *both) for (g, t), both in figures.items()]))
        print()
    print(describe("pyzmq", "numpy"))


HEAD = (
    "generators + trainers",
    "groups/s",
    "credits held",
    "Jain",
    "least",
    "most",
    "half demand: groups/s",
    "credits held",
    "Jain",
    "least",
    "most",
)


def _row(num_generators: int, num_trainers: int, full: Figures, half: Figures) -> list[str]:
    cells = [f"{num_generators} + {num_trainers}"]
    for of in (full, half):
        cells += [f"{spread(of.rates):.0f}", f"{spread(of.held):.1f}", f"{spread(of.jain):.3f}"]
        cells += [f"{spread(of.least).median:.2f}", f"{spread(of.most).median:.2f}"]
    return cells


if __name__ == "__main__":
    main()
