"""Batched views against a loop of torchvision transforms over the images, on one core.

    taskset -c 0 python -m benchmarks.views --images 32 --side 64 --global-px 64 --local-px 32

Prints one JSON object: medians of interleaved runs, their ratio, and what it was measured on. The
loop draws the same distribution: one v2 pipeline per kind of crop, applied to each uint8 image,
as a data loader's worker would.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
import torchvision
from torchvision.transforms import v2

from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective.augment_blur import blur_radius, scaled_sigmas
from trainer.objective.rng import step_generator
from trainer.objective.views import IMAGENET_MEAN, IMAGENET_STD, ViewMaker


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    crops = CropsConfig(
        global_px=options.global_px, local_px=options.local_px, locals_per_image=options.locals
    )
    shape = (options.images, 3, options.side, options.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    batched, loop = batched_views(crops, images), looped_views(crops, images)
    batched_s, loop_s = interleaved(batched, loop, options.repeats)
    report = {
        "batched_ms": round(1000 * batched_s, 2),
        "torchvision_loop_ms": round(1000 * loop_s, 2),
        "ratio": round(loop_s / batched_s, 2),
        **vars(options),
        **provenance(),
    }
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--global-px", type=int, default=64)
    parser.add_argument("--local-px", type=int, default=32)
    parser.add_argument("--locals", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def batched_views(crops: CropsConfig, images: torch.Tensor) -> Callable[[int], None]:
    make = ViewMaker(crops, AugmentConfig())

    def run(step: int) -> None:
        make(images, step_generator("views", run_seed=0, incarnation=0, rank=0, step=step))

    return run


def looped_views(crops: CropsConfig, images: torch.Tensor) -> Callable[[int], None]:
    augment = AugmentConfig()
    first = pipeline(crops, augment, local=False, blur=augment.global_blur[0], solarise=0.0)
    second = pipeline(
        crops, augment, local=False, blur=augment.global_blur[1], solarise=augment.solarise
    )
    local = pipeline(crops, augment, local=True, blur=augment.local_blur, solarise=0.0)

    def run(step: int) -> None:
        torch.manual_seed(step)
        halves = torch.rand(len(images)) < 0.5
        globals_, locals_ = [], []
        for image, half in zip(images, halves.tolist(), strict=True):
            globals_ += [(second if half else first)(image) for _ in range(crops.globals_per_image)]
            locals_ += [local(image) for _ in range(crops.locals_per_image)]
        torch.stack(globals_)
        torch.stack(locals_)

    return run


def pipeline(
    crops: CropsConfig, augment: AugmentConfig, *, local: bool, blur: float, solarise: float
) -> v2.Compose:
    sigmas = scaled_sigmas(augment.blur_sigma, crops.global_px)
    brightness, contrast, saturation, hue = augment.jitter_strength
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                crops.local_px if local else crops.global_px,
                scale=crops.local_scale if local else crops.global_scale,
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(augment.flip),
            v2.RandomApply(
                [v2.ColorJitter(brightness, contrast, saturation, hue)], p=augment.jitter
            ),
            v2.RandomGrayscale(augment.grey),
            v2.RandomApply([v2.GaussianBlur(2 * blur_radius(sigmas[1]) + 1, sigmas)], p=blur),
            v2.RandomSolarize(128, p=solarise),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )


def interleaved(
    first: Callable[[int], None], second: Callable[[int], None], repeats: int
) -> tuple[float, float]:
    """Median seconds of both, taken in turn so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in (first, second):
        run(0)
    for step in range(repeats):
        for run, taken in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            run(step)
            taken.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def provenance() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "processor": processor(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
