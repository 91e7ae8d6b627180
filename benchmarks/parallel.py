"""What `trainer.parallel` costs and saves: memory of a trainer and steps a second, ddp and fsdp.

    python -m benchmarks.parallel [--trainers 2] [--config FILE] [trainer.backbone=... ...]

Starts its own trainers with torchrun, on GPUs where there is one for each (NCCL), else on the CPU
with a thread each (gloo). They train on random pictures (synthetic: no generator takes part) with
real steps: views, both networks, losses, optimiser and average. Both ways live in the same
processes and are timed in turn. Memory is what a trainer holds when a step is done: weights of
student and teacher, gradients, moments. On GPUs the highest memory of a step is measured as well,
of each way alone. Without `--config` the settings are small enough for two cores, and everything
after the options overrides settings.
"""

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import torch
import torch.distributed as dist

from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from online_synclr.config import Config, load_config
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.objective.ids import image_pairs
from trainer.objective.model import build_model
from trainer.objective.shards import own_parts
from trainer.step import TrainStep

Way = Literal["ddp", "fsdp"]
WAYS: Final[tuple[Way, ...]] = ("ddp", "fsdp")
SMALL: Final = (
    "images.per_caption=2",
    "images.send_px=64",
    "trainer.batch_groups=8",
    "trainer.crops={global_px: 64, local_px: 32, locals_per_image: 2}",
    "trainer.backbone_args={patch_size: 8, embed_dim: 192, depth: 6, num_heads: 3}",
    "trainer.contrastive={projector_hidden: 512, predictor_hidden: 512, out_dim: 64}",
    "trainer.mim={prototypes: 2048, hidden: 256, bottleneck: 64}",
    "trainer.precision=fp32",
)
WARM_UP_STEPS: Final = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the trainers, or be one of them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        measure(options)
        return
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    trainers = f"--nproc_per_node={options.trainers}"
    command = [*launcher, trainers, "-m", "benchmarks.parallel", *given]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options and, as `overrides`, settings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=2, help="steps behind one value")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> None:
    """One trainer's part; trainer 0 prints."""
    small = SMALL if options.config is None else ()
    config = load_config(options.config, (*small, *options.overrides))
    trainers = join()
    batch = random_batch(config, trainers)
    peaks = {way: peak_bytes(config, trainers, batch, way) for way in WAYS}
    steps = {way: make_step(config, trainers, way) for way in WAYS}
    cases: dict[str, Callable[[], float]] = {
        way: timed(step, batch, options.steps, trainers) for way, step in steps.items()
    }
    seconds = interleave(cases, options.repeats)
    held = {way: largest(held_bytes(step), trainers) for way, step in steps.items()}
    if trainers.is_first:
        num_weights = sum(weight.numel() for weight in steps["ddp"].model.student.parameters())
        report(config, trainers, num_weights, seconds=seconds, held=held, peaks=peaks)
    trainers.close()


def join() -> Trainers:
    """The trainers' groups, as `trainer.distributed.join_trainers` makes them under a run."""
    local_rank, size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpu = torch.cuda.device_count() >= size
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
    return Trainers(
        index=dist.get_rank(),
        size=size,
        device=device,
        device_group=dist.group.WORLD,
        cpu_group=dist.new_group(backend="gloo"),
    )


def make_step(config: Config, trainers: Trainers, way: Way) -> TrainStep:
    """A fresh step; equal settings give equal weights. Moments are made when it is first called."""
    settings = config.trainer.model_copy(update={"parallel": way})
    model = build_model(settings, run_seed=0, device=trainers.device)
    whole = config.model_copy(update={"trainer": settings})
    return TrainStep(whole, model=model, trainers=trainers, incarnation=1)


def random_batch(config: Config, trainers: Trainers) -> Batch:
    """This trainer's share, of random pictures, each caption a class of its own."""
    num_groups = config.trainer.batch_groups // trainers.size
    per_group, side = config.images_per_group, config.images.send_px
    device = trainers.device
    torch.manual_seed(trainers.index)
    shape = (num_groups * per_group, 3, side, side)
    groups = torch.arange(num_groups) + num_groups * trainers.index
    captions_N2 = (
        torch.stack((groups, groups), dim=1).repeat_interleave(per_group, dim=0).to(device)
    )
    return Batch(
        images_NCHW=torch.randint(0, 256, shape, dtype=torch.uint8, device=device),
        captions_N2=captions_N2,
        concepts_N2=captions_N2,
        images_N2=image_pairs(shape[0], trainers.index).to(device),
        num_groups=num_groups,
    )


def timed(step: TrainStep, batch: Batch, num_steps: int, trainers: Trainers) -> Callable[[], float]:
    """Seconds of a step, from a common start to the end of the slowest trainer."""

    def measure() -> float:
        dist.barrier()
        started_s = time.perf_counter()
        for number in range(num_steps):
            step(batch, number)
        if trainers.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()
        return (time.perf_counter() - started_s) / num_steps

    return measure


def peak_bytes(config: Config, trainers: Trainers, batch: Batch, way: Way) -> int | None:
    """The highest memory of a step on the GPU of any trainer; None on the CPU."""
    if trainers.device.type != "cuda":
        return None
    step = make_step(config, trainers, way)
    for number in range(WARM_UP_STEPS):
        step(batch, number)
    torch.cuda.reset_peak_memory_stats()
    step(batch, WARM_UP_STEPS)
    peak = torch.cuda.max_memory_allocated()
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return largest(peak, trainers)


def held_bytes(step: TrainStep) -> int:
    """Weights of both networks, gradients and moments on this trainer, after a step."""
    parameters = [*step.model.student.parameters(), *step.model.teacher.parameters()]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    states = [part["state"].values() for part in step.optimizer.state_dict().values()]
    moments = [moment for state in states for of_one in state for moment in of_one.values()]
    return num_bytes([*parameters, *gradients, *moments])


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of this trainer's parts."""
    return sum(part.numel() * part.element_size() for part in own_parts(tensors))


def largest(value: int, trainers: Trainers) -> int:
    """Of all trainers."""
    every = torch.tensor(value)
    dist.all_reduce(every, op=dist.ReduceOp.MAX, group=trainers.cpu_group)
    return int(every)


def report(
    config: Config,
    trainers: Trainers,
    num_weights: int,
    *,
    seconds: dict[str, list[float]],
    held: dict[Way, int],
    peaks: dict[Way, int | None],
) -> None:
    """Print the table and the machine's line."""
    rows = [
        [
            way,
            f"{held[way] / 2**20:.1f}",
            "not measured" if (peak := peaks[way]) is None else f"{peak / 2**20:.0f}",
            f"{spread([1000 * value for value in seconds[way]]):.0f}",
            f"{ratio(seconds['ddp'], seconds[way]):.2f}",
        ]
        for way in WAYS
    ]
    head = ("trainer.parallel", "held MiB", "highest MiB", "step ms", "steps/s to ddp")
    print(
        f"{trainers.size} trainers over {dist.get_backend()}, student of {num_weights / 1e6:.1f} M "
        f"weights, {config.trainer.batch_groups} groups a step, synthetic pictures"
    )
    print(table(head, rows))
    print(describe("torch", "timm"), flush=True)


if __name__ == "__main__":
    main()
