"""What `trainer.blocks` and larger crops cost: parameters, FLOPs, peak memory, time of a step.

    python -m benchmarks.backbones [--config FILE] [--repeats 9] [KEY=VALUE ...]

Each row changes one thing of the first. FLOPs are those of `benchmarks.flops`, of the whole step.
Peaks are of torch's allocator beyond weights and optimiser. Times are ratios taken within a repeat;
on a CPU they are of the processors' time, which other processes lengthen less. Random pictures
stand in for generated ones; the default is the demo's ViT with a batch that two CPU cores carry.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.flops import step_flops
from benchmarks.loss_memory import DEVICE, timed
from benchmarks.measuring import REPEATS, describe, interleave, ratio, table
from benchmarks.micro_batches import random_batch, step_of
from benchmarks.peak_memory import allocated_by
from online_synclr.config import Config, load_config
from online_synclr.paths import CONFIGS_DIR

SMALL: Final = ("trainer.batch_groups=4", "trainer.optimizer.name=adamw")
BLOCKS: Final[dict[str, tuple[str, ...]]] = {
    "as it is": (),
    "SwiGLU": ("trainer.blocks.mlp=swiglu",),
    "LayerScale": ("trainer.blocks.layer_scale=1e-5",),
    "4 registers": ("trainer.blocks.registers=4",),
    "all three": ("trainer.blocks={mlp: swiglu, layer_scale: 1e-5, registers: 4}",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="instead of the small settings")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    path = args.config or CONFIGS_DIR / "demo.yaml"
    given = [*(() if args.config else SMALL), *args.overrides]
    plain = load_config(path, given)
    cases = {name: load_config(path, [*given, *more]) for name, more in BLOCKS.items()}
    cases |= {f"crops x {times:g}": enlarged(plain, times) for times in (1.5, 2.0)}
    print(table(HEAD, rows(cases, args.repeats)))
    print(f"\n{describe('torch', 'timm')}")


HEAD: Final = ("backbone", "parameters", "FLOPs", "peak memory", "time of a step")


def enlarged(config: Config, times: float) -> Config:
    """With crops and pictures so many times as large, as a high-resolution phase has them."""
    crops, images = config.trainer.crops, config.images
    sizes = {name: round(times * getattr(crops, name)) for name in ("global_px", "local_px")}
    side = round(times * images.send_px)
    larger = config.trainer.model_copy(update={"crops": crops.model_copy(update=sizes)})
    pictures = images.model_copy(update={"send_px": side, "render_px": side})
    return config.model_copy(update={"trainer": larger, "images": pictures})


def spent(work: Callable[[], object]) -> Callable[[], float]:
    """A measurement of the seconds that `work` keeps the device busy for."""
    if DEVICE.type == "cuda":
        return timed(work, DEVICE)

    def seconds() -> float:
        start_s = time.process_time()
        work()
        return time.process_time() - start_s

    return seconds


def rows(cases: dict[str, Config], repeats: int) -> list[list[str]]:
    """Cells for HEAD; all but the parameters relative to the first case."""
    steps = {name: step_of(case, case.trainer.micro_batches, False) for name, case in cases.items()}
    work = {name: partial(steps[name], random_batch(case), 0) for name, case in cases.items()}
    times = interleave({name: spent(step) for name, step in work.items()}, repeats)
    peaks = {name: allocated_by(step, DEVICE).peak_bytes for name, step in work.items()}
    flops = {name: step_flops(cases[name], step.model) for name, step in steps.items()}
    first = next(iter(cases))
    return [
        [
            name,
            f"{sum(p.numel() for p in step.model.student.backbone.vit.parameters()):,}",
            f"{flops[name] / flops[first]:.3f}",
            f"{peaks[name] / peaks[first]:.2f}",
            f"{ratio(times[name], times[first]):.2f}",
        ]
        for name, step in steps.items()
    ]


if __name__ == "__main__":
    main()
