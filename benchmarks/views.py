"""Batched views against per-image torchvision pipelines on the same cores.

    python -m benchmarks.views [--size demo paper] [--threads 1 2]

`tensor` and `PIL` apply one v2 pipeline per kind of crop to each uint8 tensor or PIL image, in one
worker process a core, as a data loader would; the pictures are in the workers' memory already, and
the views stay there, both in their favour. They draw the same distribution. The pictures are noise.
With one thread, start it as `taskset -c 0 python -m benchmarks.views --threads 1` for one core.
"""

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torchvision.transforms import v2

from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.augment_blur import blur_radius, scaled_sigmas
from trainer.objective.rng import step_generator
from trainer.objective.views import ViewMaker


@dataclass(frozen=True)
class Size:
    """Pictures and their crops; `side_px`: of the pictures."""

    num_images: int
    side_px: int
    crops: CropsConfig


SIZES = {
    "demo": Size(32, 64, CropsConfig(global_px=64, local_px=32, locals_per_image=2)),
    "paper": Size(16, 256, CropsConfig()),
}
HEAD = ("pictures", "threads", "views", "images/s", "batched / this")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    rows = []
    for name, threads in itertools.product(options.size, options.threads):
        rows += measure(name, SIZES[name], threads, options.repeats)
    print(describe("torch", "torchvision", "pillow"), end="\n\n")
    print(table(HEAD, rows))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--threads", nargs="+", type=int, default=sorted({1, torch.get_num_threads()})
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    return parser.parse_args(arguments)


def measure(name: str, size: Size, threads: int, repeats: int) -> list[list[str]]:
    """The table's rows for one size on so many cores."""
    torch.set_num_threads(threads)
    runs: dict[str, Callable[[], float]] = {"batched": timed(batched_views(size))}
    with Loops(size, threads) as loops:
        for kind in ("tensor", "PIL"):
            runs[kind] = timed(loops.runner(kind))
        seconds = interleave(runs, repeats)
    rows = []
    for kind, values in seconds.items():
        rate = spread([size.num_images / value for value in values])
        times = f"{ratio(values, seconds['batched']):.2f}"
        pictures = f"{size.num_images} of {size.side_px} px ({name})"
        rows.append([pictures, str(threads), kind, f"{rate:.1f}", times])
    return rows


def batched_views(size: Size) -> Callable[[int], None]:
    make = ViewMaker(size.crops, AugmentConfig())
    images = noise(size)

    def run(step: int) -> None:
        make(images, step_generator("views", run_seed=0, incarnation=0, rank=0, step=step))

    return run


class Loops:
    """Worker processes, one a core, that make views picture by picture."""

    def __init__(self, size: Size, num_workers: int) -> None:
        self._size = size
        self._num_workers = num_workers
        self._pool = ProcessPoolExecutor(
            num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread
        )

    def __enter__(self) -> "Loops":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def runner(self, kind: str) -> Callable[[int], None]:
        """All pictures once, shared out evenly."""
        share = self._size.num_images // self._num_workers
        part = Size(share, self._size.side_px, self._size.crops)

        def run(step: int) -> None:
            jobs = range(step * self._num_workers, (step + 1) * self._num_workers)
            list(self._pool.map(loop_once, [kind] * len(jobs), [part] * len(jobs), jobs))

        return run


def one_thread() -> None:
    torch.set_num_threads(1)


_LOOPS: dict[tuple[str, int, int], Callable[[int], None]] = {}
"""A worker's, made at the first call."""


def loop_once(kind: str, size: Size, seed: int) -> None:
    """One pass of a worker over its pictures."""
    key = (kind, size.num_images, size.side_px)
    if key not in _LOOPS:
        _LOOPS[key] = looped_views(kind, size)
    _LOOPS[key](seed)


def looped_views(kind: str, size: Size) -> Callable[[int], None]:
    augment, crops = AugmentConfig(), size.crops
    first = pipeline(crops, augment, local=False, blur=augment.global_blur[0], solarise=0.0)
    second = pipeline(
        crops, augment, local=False, blur=augment.global_blur[1], solarise=augment.solarise
    )
    local = pipeline(crops, augment, local=True, blur=augment.local_blur, solarise=0.0)
    images = list(noise(size))
    if kind == "PIL":
        images = [v2.functional.to_pil_image(image) for image in images]

    def run(seed: int) -> None:
        torch.manual_seed(seed)
        halves = torch.rand(len(images)) < 0.5
        globals_, locals_ = [], []
        for image, half in zip(images, halves.tolist(), strict=True):
            globals_ += [(second if half else first)(image) for _ in range(crops.globals_per_image)]
            locals_ += [local(image) for _ in range(crops.locals_per_image)]
        torch.stack(globals_)
        torch.stack(locals_)

    return run


def noise(size: Size) -> torch.Tensor:
    shape = (size.num_images, 3, size.side_px, size.side_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


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
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )


def timed(run: Callable[[int], None]) -> Callable[[], float]:
    """Seconds of one call; each call has a step of its own."""
    steps = itertools.count()

    def measure() -> float:
        started_s = time.perf_counter()
        run(next(steps))
        return time.perf_counter() - started_s

    return measure


if __name__ == "__main__":
    main()
