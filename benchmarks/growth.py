"""What a group costs a trainer when the pool is large and when many generators are connected.

    python -m benchmarks.growth [--repeats 9]

The parts are called directly, without sockets or networks, on groups of a few bytes: what is left
is bookkeeping. Each part is measured with 10 and with 10,000 groups in the pool, or with 1 and with
64 connected generators, in turn; microseconds of CPU a call and the ratio of large to small.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console

from benchmarks import stamped
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from online_synclr.config import Config
from online_synclr.monitor.monitor import Monitor
from online_synclr.monitor.waits import WaitClock
from online_synclr.stream.admission import Terms
from online_synclr.stream.frames import Buffer, pack
from online_synclr.stream.group import Group, Recipe
from online_synclr.stream.limiter import RateLimiter
from online_synclr.stream.messages import Credit, GroupHeader, Hello, Status, Welcome, peer_identity
from online_synclr.stream.trainer_side import Outgoing, TrainerSide
from tests.monitor_helpers import make_roles
from tests.report_helpers import make_peer, make_report
from trainer.agreement import Rounds
from trainer.distinct import DistinctCounter
from trainer.figures import Figures
from trainer.generator_watch import GeneratorWatch
from trainer.intake import Intake
from trainer.objective.schedules import StepSettings
from trainer.pool import Pool
from trainer.report import TrainerReport, merge, peer_report
from trainer.totals import Totals

SHAPE: Final = (1, 3, 1, 1)
GROUP_BYTES: Final = 3
BATCH: Final = 8
REUSE: Final = 2
SMALL_POOL, LARGE_POOL = 10, 10_000
FEW, MANY = 1, 64
CYCLES: Final = 100
SETTINGS: Final = StepSettings(lr=1e-3, weight_decay=0.1, ema=0.99, teacher_temperature=0.05)

Case = Callable[[], float]
"""CPU seconds of one call."""


@dataclass(frozen=True)
class Part:
    """One row: the same thing at two sizes. `unit`: what one call is for."""

    name: str
    sizes: tuple[str, str]
    unit: str
    small: Case
    large: Case


def make_recipe(counter: int, stream: int = 0) -> Recipe:
    """Each with a caption of its own."""
    return msgspec.structs.replace(
        stamped.make_recipe(SHAPE),
        caption=f"a red fox number {counter} in the fresh snow at dawn",
        stream=stream,
        counter=counter,
    )


def make_groups(number: int) -> list[Group]:
    images = np.zeros(SHAPE, np.uint8)
    return [Group(make_recipe(counter), images) for counter in range(number)]


def make_pool(held: int) -> Pool:
    """Full, and used as much as in the middle of a run."""
    pool = Pool(max_bytes=held * GROUP_BYTES, group_bytes=GROUP_BYTES, max_reuse=4, seed=0)
    for index, group in enumerate(make_groups(2 * held)):
        pool.insert(group, float(index))
        if index % (BATCH // REUSE) == 0 and pool.can_sample(BATCH):
            pool.sample(BATCH)
    while len(pool) < held:
        pool.insert(make_groups(1)[0], 0.0)
    return pool


def pool_case(held: int) -> Case:
    """A group-use: a batch is sampled, as many groups come as the reuse asks for."""
    pool, groups = make_pool(held), itertools.cycle(make_groups(64))

    def case() -> float:
        started_s = time.thread_time()
        for _ in range(CYCLES):
            for _ in range(BATCH // REUSE):
                pool.insert(next(groups), 0.0)
            pool.sample(BATCH)
            pool.take_left()
        return (time.thread_time() - started_s) / (CYCLES * BATCH)

    return case


def counters_case(held: int) -> Case:
    """The pool's figures of one report."""
    pool = make_pool(held)

    def case() -> float:
        started_s = time.thread_time()
        for _ in range(CYCLES):
            pool.counters(1.0)
        return (time.thread_time() - started_s) / CYCLES

    return case


class Stream:
    """A trainer's end of the stream with so many engines, over a real intake, without sockets."""

    def __init__(self, held: int, generators: int) -> None:
        limiter = RateLimiter(samples_per_insert=REUSE, max_reuse=4, batch=BATCH, min_groups=BATCH)
        least = max(held, limiter.groups_needed() + 2 * BATCH)
        pool = make_pool(least)
        self.intake = Intake(limiter, pool)
        self.side = TrainerSide(
            terms=Terms(run_id="bench", image_shape=SHAPE),
            sink=self.intake,
            credits_per_generator=16,
            silence_s=1e9,
        )
        self._sent: dict[bytes, int] = {}
        self._hello: dict[bytes, Hello] = {}
        for number in range(generators):
            self._join(number)

    def _join(self, number: int) -> None:
        hello = Hello(
            run_id="bench",
            generator_id=f"g{number}",
            role="engine",
            incarnation=0,
            stream=number,
            image_shape=SHAPE,
        )
        route = peer_identity(hello)
        (welcome,) = self.side.on_frames(route, pack(hello), 0.0)
        assert isinstance(welcome.message, Welcome)
        counters = make_peer("", 80.0).counters
        self.side.on_frames(route, pack(Status(state="running", counters=counters, sent=0)), 0.0)
        self._hello[route] = hello
        self._sent[route] = 0

    def answer(self, credits: Sequence[Outgoing]) -> list[tuple[bytes, list[Buffer]]]:
        """The groups that engines send under these credits, packed."""
        packed = []
        for outgoing in credits:
            credit, route = outgoing.message, outgoing.route
            assert isinstance(credit, Credit)
            packed += [(route, self._group(route, credit.lease)) for _ in range(credit.num_groups)]
        return packed

    def _group(self, route: bytes, lease: int) -> list[Buffer]:
        sequence, self._sent[route] = self._sent[route], self._sent[route] + 1
        header = GroupHeader(
            recipe=make_recipe(sequence, self._hello[route].stream),
            shape=SHAPE,
            encoding="raw",
            payload_bytes=GROUP_BYTES,
            sequence=sequence,
            lease=lease,
        )
        return pack(header, bytes(GROUP_BYTES))


def stream_case(held: int, generators: int) -> Case:
    """A group received: its credit is issued, it is read and inserted, and it is sampled."""
    stream = Stream(held, generators)
    side, intake = stream.side, stream.intake

    def case() -> float:
        taken_s, received = 0.0, 0
        for _ in range(CYCLES):
            started_s = time.thread_time()
            credits = side.issue_credits()
            taken_s += time.thread_time() - started_s
            groups = stream.answer(credits)
            started_s = time.thread_time()
            for route, frames in groups:
                side.on_frames(route, frames, 0.0)
            while intake.try_sample(BATCH) is not None:
                pass
            taken_s += time.thread_time() - started_s
            received += len(groups)
        return taken_s / received

    return case


class _Peers:
    """In place of the receiver: its views."""

    def __init__(self, side: TrainerSide) -> None:
        self._side = side

    def peers(self) -> list:  # type: ignore[type-arg]
        return self._side.views(time.monotonic())


def round_case(generators: int) -> Case:
    """A vote of one trainer, views of the generators as old as the watch lets them be."""
    stream = Stream(SMALL_POOL, generators)
    watch = GeneratorWatch(_Peers(stream.side), generators)
    rounds = Rounds(
        intake=_Ready(),
        group=None,
        waits=WaitClock(),
        stop_requested=lambda: False,
        generators=watch,
    )

    def case() -> float:
        started_s = time.thread_time()
        for _ in range(CYCLES):
            rounds.next(0, checkpoint_due=False)
        return (time.thread_time() - started_s) / CYCLES

    return case


class _Ready:
    def wait_ready(self, timeout_s: float) -> bool:
        return True


def watch_case(generators: int) -> Case:
    """The watch's look at the generators, at most twice a second."""
    watch = GeneratorWatch(_Peers(Stream(SMALL_POOL, generators).side), generators)

    def case() -> float:
        started_s = time.thread_time()
        watch.peers(fresh=True)
        return time.thread_time() - started_s

    return case


def report_case(generators: int, folder: Path) -> Case:
    """A logged step on trainer 0: views, report, merge, metrics, TensorBoard, metrics.jsonl."""
    side = Stream(SMALL_POOL, generators).side
    counter = DistinctCounter()
    for number in range(50_000):
        counter.add(str(number).encode())
    config = Config()
    figures = Figures(config, Totals())
    monitor = Monitor(config, folder, make_roles(), console=Console(quiet=True))
    steps = itertools.count()
    figures.start(merge([_report(side, counter)]), 0)

    def case() -> float:
        started_s = time.thread_time()
        step = next(steps)
        values = figures.metrics(merge([_report(side, counter)]), step, SETTINGS)
        monitor.log_step(step, values)
        monitor.update_console(step, values, phase="training")
        return time.thread_time() - started_s

    return case


def _report(side: TrainerSide, counter: DistinctCounter) -> TrainerReport:
    peers = [peer_report(view) for view in side.views(0.0)]
    return make_report(peers=peers, captions=counter.to_bytes(), concepts=counter.to_bytes())


def parts(folder: Path) -> list[Part]:
    """Everything that is measured."""
    pools = (f"{SMALL_POOL} groups", f"{LARGE_POOL:,} groups")
    crowds = (f"{FEW} generator", f"{MANY} generators")
    return [
        Part("pool", pools, "group-use", pool_case(SMALL_POOL), pool_case(LARGE_POOL)),
        Part("pool figures", pools, "report", counters_case(SMALL_POOL), counters_case(LARGE_POOL)),
        Part(
            "credits, intake, pool",
            pools,
            "group",
            stream_case(SMALL_POOL, 4),
            stream_case(LARGE_POOL, 4),
        ),
        Part(
            "credits, intake, pool",
            crowds,
            "group",
            stream_case(LARGE_POOL, FEW),
            stream_case(LARGE_POOL, MANY),
        ),
        Part("agreement", crowds, "step", round_case(FEW), round_case(MANY)),
        Part("watch of generators", crowds, "half second", watch_case(FEW), watch_case(MANY)),
        Part(
            "figures",
            crowds,
            "logged step",
            report_case(FEW, folder / "few"),
            report_case(MANY, folder / "many"),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(Path(folder)):
            found = interleave({"small": part.small, "large": part.large}, options.repeats)
            small, large = (spread([1e6 * s for s in found[size]]) for size in ("small", "large"))
            grown = ratio(found["large"], found["small"])
            sizes = " and ".join(part.sizes)
            rows.append(
                [part.name, sizes, part.unit, f"{small:.1f}", f"{large:.1f}", f"{grown:.2f}"]
            )
    print(table(["part", "sizes", "for each", "small, us", "large, us", "large / small"], rows))
    print(describe("numpy"))


if __name__ == "__main__":
    main()
