"""The trainer's step against a plain eager one, its share of the matmul rate, and its memory.

    python -m benchmarks.step [--models demo S] [--images 8] [--compile] [--no-memory] [a.b=c ...]

Every case starts from a synthetic uint8 batch on the device and ends with updated student and
teacher; both make the same views with the same code (`views` says how long those take alone;
`python -m benchmarks.views` compares them with torchvision's). The plain step is
`benchmarks/reference_step.py`; settings are those of `configs/`, laid over with `a.b=c`. Model
FLOPs: `benchmarks/flops.py`. Memory is measured in a process of its own for each case. With a GPU
the models are S, B and L with the paper's 65,536 prototypes unless said otherwise; on a CPU the
demo's and S with 8,192, since with so few images all else would drown in the prototypes.
"""

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Sequence

import torch

from benchmarks.flops import matmul_rate, step_flops
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from benchmarks.step_cases import (
    NUM_IMAGES,
    SETTINGS,
    Size,
    build_case,
    build_networks,
    peak_bytes,
    timed,
)
from trainer.objective.precision import computes_in_bf16

COMPILED = ("trainer.compile=true",)
HEAD = (
    "model, images a step",
    "step",
    "images/s",
    "/ plain",
    "share of matmul rate",
    "views' share",
    "peak memory",
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    rows, notes = [], []
    for name in options.models:
        images = options.images or NUM_IMAGES[device.type][name]
        settings = (*SETTINGS[device.type][name], *options.settings)
        measured, note = measure(Size(name, images, settings), device, options)
        rows += measured
        notes.append(note)
    print(describe("torch", "timm"), end="\n\n")
    print(table(HEAD, rows), end="\n\n")
    print("\n".join(notes))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    models = ["S", "B", "L"] if on_gpu else ["demo", "S"]
    parser.add_argument("--models", nargs="+", default=models, choices=["demo", "S", "B", "L"])
    parser.add_argument("--images", type=int, default=0, help="a step; 0: as fits the model")
    parser.add_argument("--compile", action="store_true", help="measure trainer.compile too")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--steps", type=int, default=5 if on_gpu else 1, help="of one value")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("settings", nargs="*", default=[], metavar="a.b=c")
    return parser.parse_intermixed_args(arguments)


def measure(
    size: Size, device: torch.device, options: argparse.Namespace
) -> tuple[list[list[str]], str]:
    """The table's rows for one model, and a line with what they were computed from."""
    cases: dict[str, tuple[str, tuple[str, ...]]] = {"trainer": ("trainer", ())}
    if options.compile:
        cases["trainer, compiled"] = ("trainer", COMPILED)
    cases["plain"] = ("plain", ())
    config = size.config()
    dtype = torch.float32
    if computes_in_bf16(config.trainer.precision, device):
        dtype = torch.bfloat16
    flops = step_flops(config, build_networks(config, torch.device("cpu")))
    runs = {
        name: timed(build_case(kind, size, device, settings), times=options.steps)
        for name, (kind, settings) in cases.items()
    }
    runs["views"] = timed(build_case("views", size, device), times=options.steps)
    runs["matmul"] = lambda: matmul_rate(device, dtype)
    values = interleave(runs, options.repeats)
    rows = []
    for name, (kind, settings) in cases.items():
        taken_s = values[name]
        rate = spread([size.num_images / value for value in taken_s])
        share = ratio([flops / value for value in taken_s], values["matmul"])
        memory = "not measured"
        if options.memory:
            memory = (
                f"{fresh_peak_bytes(kind, size, device, settings, options.threads) / 1e9:.2f} GB"
            )
        rows.append(
            [
                f"{size.name}, {size.num_images}",
                name,
                f"{rate:.1f}",
                f"{ratio(values['plain'], taken_s):.2f}",
                f"{share:.2f}",
                f"{ratio(values['views'], taken_s):.3f}",
                memory,
            ]
        )
    note = (
        f"{size.name}: {flops / size.num_images / 1e9:.1f} model GFLOPs an image; {dtype} matmul "
        f"{spread([value / 1e12 for value in values['matmul']]):.2f} TFLOP/s; "
        f"{config.trainer.mim.prototypes} prototypes"
    )
    return rows, note


def fresh_peak_bytes(
    kind: str, size: Size, device: torch.device, settings: tuple[str, ...], threads: int
) -> int:
    """`peak_bytes` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_bytes, kind, size, str(device), settings, threads).result()


if __name__ == "__main__":
    main()
