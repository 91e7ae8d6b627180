"""What a frozen teacher costs: the trainer's step with it, beside the other losses and alone.

    python -m benchmarks.distillation [--images 48] [--teacher local-dir:DIR] [--threads 1]

The model and its batch are the demo's (or those of --model). The teacher, unless one is named, is a
ViT of the student's depth and patch and twice its width, with random weights: a step's work does
not depend on them. Times are taken in turn and divided repeat by repeat; memory is each case's in
a process of its own; FLOPs are `benchmarks/flops.py`'s.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial

import timm
import torch
from timm.models import save_for_hf

from benchmarks.flops import step_flops
from benchmarks.measuring import REPEATS, describe, interleave, ratio, table
from benchmarks.step import fresh_peak_bytes
from benchmarks.step_cases import NUM_IMAGES, SETTINGS, Size, build_case, build_networks, timed

ALONE = (
    "trainer.contrastive.global_weight=0",
    "trainer.contrastive.local_weight=0",
    "trainer.mim.weight=0",
    "trainer.crops.locals_per_image=0",
)
HEAD = ("case", "step / plain", "FLOPs / plain", "peak memory / plain")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = options.images or NUM_IMAGES[device.type][options.model]
    size = Size(options.model, images, SETTINGS[device.type][options.model])
    with tempfile.TemporaryDirectory() as folder:
        teacher = options.teacher or save_wider(size, folder)
        named = f"trainer.distillation.teacher={teacher}"
        cases: dict[str, tuple[str, ...]] = {
            "plain": (),
            "with a frozen teacher": (named,),
            "with it alone, no local crops": (named, *ALONE),
        }
        rows = measure(size, cases, device, options)
    print(describe("torch", "timm"), end="\n\n")
    print(table(HEAD, rows))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", choices=["demo", "S", "B", "L"])
    parser.add_argument("--images", type=int, default=0, help="a step; 0: as fits the model")
    parser.add_argument("--teacher", default="", help="as in the settings; none: made here")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def save_wider(size: Size, folder: str) -> str:
    """Write a random ViT of twice the student's width; its name for the settings."""
    trainer = size.config().trainer
    student = build_networks(size.config(), torch.device("cpu")).student.backbone
    arguments = {
        **trainer.backbone_args,
        "img_size": trainer.crops.global_px,
        "patch_size": student.patch_px,
        "embed_dim": 2 * student.embed_dim,
        "num_heads": 2 * student.vit.blocks[0].attn.num_heads,
    }
    model = timm.create_model(trainer.backbone, num_classes=0, **arguments)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return f"local-dir:{folder}"


def measure(
    size: Size,
    cases: dict[str, tuple[str, ...]],
    device: torch.device,
    options: argparse.Namespace,
) -> list[list[str]]:
    """The table's rows."""
    runs = {
        name: timed(build_case("trainer", size, device, settings))
        for name, settings in cases.items()
    }
    values = interleave(runs, options.repeats)
    rows = []
    peak = partial(fresh_peak_bytes, "trainer", size, device)
    plain_bytes, plain_flops = peak((), options.threads), _flops(size, ())
    for name, settings in cases.items():
        memory = peak(settings, options.threads) if settings else plain_bytes
        rows.append(
            [
                name,
                f"{ratio(values[name], values['plain']):.2f}",
                f"{_flops(size, settings) / plain_flops:.2f}",
                f"{memory / plain_bytes:.2f}",
            ]
        )
    return rows


def _flops(size: Size, settings: tuple[str, ...]) -> float:
    config = size.config(*settings)
    return step_flops(config, build_networks(config, torch.device("cpu")))


if __name__ == "__main__":
    main()
