"""What the supervised phase costs: its step against the run's, and how fast pictures are read.

    python -m benchmarks.supervised [--model demo] [--images 24] [--threads 1]

Both steps see the same number of images: the run's makes all its crops of each, the phase's one.
Times are taken in turn and divided repeat by repeat; memory is each step's in a process of its own.
Pictures are noise of 500 x 375 as JPEG, read by one core to the squares that the step takes.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.flops import crop_flops, patch_flops, step_flops, synchronise
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from benchmarks.step import fresh_peak_bytes
from benchmarks.step_cases import (
    NUM_IMAGES,
    SETTINGS,
    Size,
    build_case,
    build_networks,
    status_bytes,
    timed,
)
from trainer.distributed import Trainers
from trainer.supervised.loading import LabelledBatch, load_square
from trainer.supervised.network import build_classifier
from trainer.supervised.step import SupervisedStep

CLASSES = 1000
PICTURES = 16


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = options.images or NUM_IMAGES[device.type][options.model]
    size = Size(options.model, images, SETTINGS[device.type][options.model])
    side = _side(size)
    with tempfile.TemporaryDirectory() as folder:
        paths = _save_pictures(Path(folder))
        cases = {
            "run": timed(build_case("trainer", size, device)),
            "phase": timed(phase_step(size, device)),
            "reading": timed(lambda: _read(paths, side)),
        }
        values = interleave(cases, options.repeats)
    print(describe("torch", "timm", "pillow"), end="\n\n")
    own_bytes = _fresh_phase_bytes(size, device, options.threads)
    memory = own_bytes / fresh_peak_bytes("trainer", size, device, (), options.threads)
    row = [
        f"{size.name}, {size.num_images}",
        f"{ratio(values['phase'], values['run']):.2f}",
        f"{_phase_flops(size) / step_flops(size.config(), _networks(size)):.2f}",
        f"{memory:.2f}",
    ]
    print(
        table(("model, images a step", "step / run's", "FLOPs", "peak memory"), [row]), end="\n\n"
    )
    rate = spread([PICTURES / taken_s for taken_s in values["reading"]])
    print(f"one core reads {rate:.0f} pictures/s to {side} px")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", choices=["demo", "S", "B", "L"])
    parser.add_argument("--images", type=int, default=0, help="a step; 0: as fits the model")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def phase_step(size: Size, device: torch.device) -> Callable[[], None]:
    """What runs one step of the phase when called, and returns once the device has done it."""
    config = size.config()
    student, ema = (
        build_classifier(config.trainer, CLASSES, run_seed=0, drop_path=0.0) for _ in range(2)
    )
    step = SupervisedStep(config, student, ema, Trainers(index=0, size=1, device=device))
    shape = (size.num_images, 3, _side(size), _side(size))
    batch = LabelledBatch(
        torch.randint(0, 256, shape, dtype=torch.uint8),
        torch.randint(0, CLASSES, (size.num_images,)),
    )
    steps = itertools.count()

    def once() -> None:
        step(batch, next(steps))
        synchronise(device)

    return once


def peak_bytes_of_phase(size: Size, device_name: str, threads: int) -> int:
    """Most memory that two steps take; run it in a fresh process (as `step_cases.peak_bytes`)."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    before = 0 if device.type == "cuda" else status_bytes("VmRSS")
    run = phase_step(size, device)
    run()
    run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM") - before


def _fresh_phase_bytes(size: Size, device: torch.device, threads: int) -> int:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_bytes_of_phase, size, str(device), threads).result()


def _phase_flops(size: Size) -> float:
    """Forward pass and both gradients of one global crop an image, and the classifier's."""
    backbone = _networks(size).student.backbone
    px = size.config().trainer.crops.global_px
    classifier = 6.0 * backbone.embed_dim * CLASSES
    each = 3.0 * crop_flops(backbone, px) - patch_flops(backbone, px) + classifier
    return size.num_images * each


def _networks(size: Size):  # type: ignore[no-untyped-def]
    return build_networks(size.config(), torch.device("cpu"))


def _side(size: Size) -> int:
    return round(size.config().trainer.crops.global_px * 256 / 224)


def _save_pictures(folder: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for number in range(PICTURES):
        coarse = random.integers(0, 256, (47, 63, 3)).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize((500, 375)).save(paths[-1], quality=90)
    return paths


def _read(paths: Sequence[Path], side: int) -> None:
    for path in paths:
        load_square(path, side, (0.5, 0.5))


if __name__ == "__main__":
    main()
