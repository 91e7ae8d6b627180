"""How long a trainer's step takes: the real model, batch and step, on groups of noise.

    python -m trainer.measure SPEC RANK

One process for each of the trainers that step together. They agree on how many steps to take, by
the slowest one's time, so that none is left alone in a collective. What a step waits for in a run,
groups and the vote, is no part of it.
"""

import os
import resource
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from online_synclr.config import Config, ConfigError
from online_synclr.planning.measurement import (
    MeasurementError,
    MeasureSpec,
    TrainerAnswer,
    answer_with,
)
from online_synclr.process_control import signal_when_parent_ends
from online_synclr.rendezvous import Rendezvous
from online_synclr.stream.group import Group, Recipe
from online_synclr.topology import Member, RankEnv, Roster
from trainer.assembly import build_batches, build_step
from trainer.batch import BatchMaker
from trainer.distributed import Trainers, join_trainers
from trainer.role import TrainerRole
from trainer.step import TrainStep

FIRST_STEPS = 3
"""Steps in which memory is taken, kernels are chosen and buckets are laid out."""
PARTS = 5
MOST_STEPS = 2000
_PICTURES = 32


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit code."""
    spec_path, rank = Path(argv[0]), int(argv[1])
    signal_when_parent_ends(signal.SIGKILL)
    spec = MeasureSpec.read(spec_path)
    return answer_with(spec.folder / f"answer-{rank}.json", lambda: measure(spec, rank))


def measure(spec: MeasureSpec, rank: int) -> TrainerAnswer:
    """One trainer's steps.

    Raises:
        MeasurementError: the model cannot be built, or the batch does not fit into memory.
    """
    spec.bind(rank)
    role = _role(spec, rank)
    try:
        trainers = join_trainers(role)
        train = build_step(spec.config, role, trainers)
        steps = Steps(spec, train, build_batches(spec.config, role, trainers), trainers)
        times_s = steps.measured_s(spec.warm_up_s, spec.measure_s)
    except ConfigError as error:
        raise MeasurementError(str(error)) from None
    except torch.OutOfMemoryError:
        raise MeasurementError(
            f"{spec.local_groups} groups of {spec.config.images_per_group} images on one trainer "
            "do not fit into the GPU's memory; lower trainer.batch_groups, take more trainers, or "
            "set trainer.recompute_blocks=true.",
            too_large=True,
        ) from None
    answer = TrainerAnswer(
        step_s=statistics.median(times_s),
        low_s=min(times_s),
        high_s=max(times_s),
        num_steps=steps.num_done,
        rss_bytes=1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        gpu_bytes=_most_gpu_bytes(trainers.device),
    )
    trainers.close()
    return answer


class Steps:
    """Takes steps on groups that are all different, as in a run."""

    def __init__(
        self, spec: MeasureSpec, train: TrainStep, batches: BatchMaker, trainers: Trainers
    ) -> None:
        self._train = train
        self._batches = batches
        self._trainers = trainers
        self._groups = _noise_groups(spec.config, spec.local_groups, trainers.index)
        self.num_done = 0

    def measured_s(self, warm_up_s: float, measure_s: float) -> list[float]:
        """Seconds a step in each of `PARTS` parts of the measured time, after the warm-up."""
        began_s = time.monotonic()
        self._take(FIRST_STEPS)
        self._slowest_s(self._take(1))
        left_s = warm_up_s - (time.monotonic() - began_s)
        step_s = self._slowest_s(self._take(1))
        while self._slowest_s(left_s) > 0:
            step_s = self._slowest_s(self._take(1))
            left_s = warm_up_s - (time.monotonic() - began_s)
        each = max(1, min(MOST_STEPS, round(measure_s / step_s)) // PARTS)
        return [self._take(each) / each for _ in range(PARTS)]

    def _take(self, num_steps: int) -> float:
        """Seconds that so many steps take, the device's work included."""
        self._synchronize()
        began_s = time.perf_counter()
        for _ in range(num_steps):
            batch = self._batches(next(self._groups), self.num_done)
            self._train(batch, self.num_done)
            self.num_done += 1
        self._synchronize()
        return time.perf_counter() - began_s

    def _synchronize(self) -> None:
        if self._trainers.device.type == "cuda":
            torch.cuda.synchronize(self._trainers.device)

    def _slowest_s(self, seconds: float) -> float:
        """The largest of all trainers' values, so that all decide alike."""
        if self._trainers.cpu_group is None:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._trainers.cpu_group)
        return float(value)


def _noise_groups(config: Config, num_groups: int, rank: int) -> Iterator[list[Group]]:
    """Batches without end: every caption is new, pixels are of a few random groups."""
    images = config.images
    random = np.random.default_rng(rank)
    shape = (_PICTURES, images.per_caption, 3, images.send_px, images.send_px)
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    counter = 0
    while True:
        batch = []
        for _ in range(num_groups):
            recipe = _recipe(counter, rank, images.per_caption)
            batch.append(Group(recipe, pixels[counter % _PICTURES]))
            counter += 1
        yield batch


def _recipe(counter: int, rank: int, num_images: int) -> Recipe:
    return Recipe(
        caption=f"noise {counter} of trainer {rank}",
        concept=f"noise {counter % 1000}",
        source="plan",
        template="c",
        background="",
        relation="",
        run_seed=0,
        incarnation=1,
        stream=rank,
        counter=counter,
        num_images=num_images,
        llm_fingerprint="",
        image_fingerprint="",
    )


def _role(spec: MeasureSpec, rank: int) -> TrainerRole:
    """This process among the trainers, which meet through a file."""
    host = socket.gethostname()
    members = [
        Member(
            rank=index,
            local_rank=index,
            node=0,
            host=host,
            role="trainer",
            gpu=spec.gpu_of(index),
        )
        for index in range(spec.num_trainers)
    ]
    env = RankEnv(
        rank=rank,
        local_rank=rank,
        world_size=spec.num_trainers,
        local_world_size=spec.num_trainers,
        node=0,
        num_nodes=1,
        restart_count=0,
        under_torchrun=False,
    )
    store = dist.FileStore(str(spec.folder / "store"), spec.num_trainers)
    return TrainerRole(
        run_id="plan",
        run_dir=spec.folder,
        incarnation=1,
        trainer_index=rank,
        roster=Roster(members),
        gpu=spec.gpu_of(rank),
        cpu_threads=spec.cpu_threads,
        rendezvous=Rendezvous(store, env),
        attempt=0,
        launch_time=time.time(),
    )


def _most_gpu_bytes(device: torch.device) -> float:
    """Most memory that torch has taken from the GPU; 0 on CPU."""
    return float(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else 0.0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Groups of a measurement that failed may wait for the others at shutdown.
    os._exit(code)
