"""Steps to measure, on synthetic batches: the trainer's, the plain one, views alone, matmuls.

The pictures are noise and the captions numbers: a step's work does not depend on them.
"""

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.flops import synchronise
from benchmarks.reference_step import ReferenceStep
from online_synclr.config import Config, load_config
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.objective.ids import image_pairs
from trainer.objective.model import SynCLRModel, build_model
from trainer.objective.objective import Objective
from trainer.objective.rng import step_generator
from trainer.objective.schedules import step_settings
from trainer.objective.views import ViewMaker, Views
from trainer.step import TrainStep

CONFIGS = {
    "demo": ("demo.yaml", ["trainer.optimizer={name: adamw}"]),
    "S": ("paper.yaml", ["trainer.backbone=vit_small_patch16_224"]),
    "B": ("paper.yaml", ["trainer.backbone=vit_base_patch16_224"]),
    "L": ("vitl14_sd15.yaml", []),
}
NUM_IMAGES = {
    "cpu": {"demo": 48, "S": 8, "B": 4, "L": 4},
    "cuda": {"demo": 768, "S": 512, "B": 256, "L": 64},
}
FEW_PROTOTYPES = ("trainer.mim.prototypes=8192",)
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"demo": (), "S": FEW_PROTOTYPES, "B": FEW_PROTOTYPES, "L": FEW_PROTOTYPES},
    "cuda": {"demo": (), "S": (), "B": (), "L": ()},
}


@dataclass(frozen=True)
class Size:
    """One model and batch. `settings`: overrides laid over the configuration last."""

    name: str
    num_images: int
    settings: tuple[str, ...] = ()

    def config(self, *settings: str) -> Config:
        """The configuration, with more overrides."""
        path, own = CONFIGS[self.name]
        probe = load_config(Path(path), own)
        groups, rest = divmod(self.num_images, probe.images_per_group)
        if rest:
            raise SystemExit(
                f"--images: {self.num_images} are not groups of {probe.images_per_group}"
            )
        fixed = [f"trainer.batch_groups={groups}", "trainer.recompute_blocks=false"]
        return load_config(Path(path), [*own, *fixed, *self.settings, *settings])


def build_case(
    kind: str, size: Size, device: torch.device, settings: tuple[str, ...] = ()
) -> Callable[[], None]:
    """What runs one step when called, and returns once the device has done it.

    Args:
        kind: `trainer`, `plain` (both from uint8 batch to updated weights) or `views`.
        size: model and batch.
        device: where.
        settings: more overrides.
    """
    config = size.config(*settings)
    batch = synthetic_batch(config, device)
    builder = {"trainer": _trainer_step, "plain": _plain_step, "views": _views}[kind]
    run = builder(config, batch, device)
    steps = itertools.count()

    def once() -> None:
        run(next(steps))
        synchronise(device)

    return once


def synthetic_batch(config: Config, device: torch.device) -> Batch:
    """Noise at the size that generators send, each group a caption and a concept of its own."""
    num = config.trainer.batch_groups * config.images_per_group
    shape = (num, 3, config.images.send_px, config.images.send_px)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    group_N = torch.arange(num) // config.images_per_group
    ids_N2 = torch.stack((group_N, group_N + 5), dim=1)
    return Batch(
        images_NCHW=images.to(device),
        captions_N2=ids_N2.to(device),
        concepts_N2=ids_N2.clone().to(device),
        images_N2=image_pairs(num, 0).to(device),
        num_groups=config.trainer.batch_groups,
    )


def build_networks(config: Config, device: torch.device) -> SynCLRModel:
    """Student and teacher of a run."""
    return build_model(config.trainer, run_seed=config.run.seed, device=device)


def _trainer_step(config: Config, batch: Batch, device: torch.device) -> Callable[[int], None]:
    alone = Trainers(index=0, size=1, device=device)
    step = TrainStep(config, model=build_networks(config, device), trainers=alone, incarnation=1)

    def run(number: int) -> None:
        step(batch, number)

    return run


def _plain_step(config: Config, batch: Batch, device: torch.device) -> Callable[[int], None]:
    model = build_networks(config, device)
    reference = ReferenceStep(config.trainer, model, device)
    masks = Objective(config, model.student, model.teacher)
    views = _view_maker(config, batch)
    classes_N = batch.captions_N2[:, 0]

    def run(number: int) -> None:
        made = views(number)
        mask = masks.draw_mask(made.num_images, number)
        assert mask is not None
        reference(made, mask.to(device), classes_N, step_settings(config.trainer, number))

    return run


def _views(config: Config, batch: Batch, device: torch.device) -> Callable[[int], None]:
    make = _view_maker(config, batch)

    def run(number: int) -> None:
        make(number)

    return run


def _view_maker(config: Config, batch: Batch) -> Callable[[int], Views]:
    make = ViewMaker(config.trainer.crops, config.trainer.augment)

    def run(number: int) -> Views:
        generator = step_generator("views", run_seed=0, incarnation=1, rank=0, step=number)
        return make(batch.images_NCHW, generator)

    return run


def timed(run: Callable[[], None], *, times: int = 1) -> Callable[[], float]:
    """Seconds of one call, the mean of `times`."""

    def measure() -> float:
        started_s = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - started_s) / times

    return measure


def peak_bytes(
    kind: str, size: Size, device_name: str, settings: tuple[str, ...], threads: int
) -> int:
    """Most memory that two steps take, weights and optimiser included; run it in a fresh process.

    On CUDA what torch's allocator gave out; on CPU the resident memory beyond what the process
    had after its imports.
    """
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    before = 0 if device.type == "cuda" else status_bytes("VmRSS")
    run = build_case(kind, size, device, settings)
    run()
    run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """A figure of this process from /proc, such as VmRSS."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
