"""Peak memory and time of one training step, by `trainer.micro_batches` and recomputation.

    python -m benchmarks.micro_batches [--config FILE] [--parts 1 2 4 8] [KEY=VALUE ...]

Random pictures stand in for generated ones; the default is a small ViT on small crops, which two
CPU cores carry. Peaks are those of torch's allocator beyond weights and optimiser, gradients
included: on the CPU from the profiler's trace, on CUDA `max_memory_allocated`. Time ratios are
taken within a repeat. With several parts global crops are made twice and the teacher's prototypes
for each; everything else is the same work.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.loss_memory import DEVICE, timed
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from benchmarks.peak_memory import allocated_by
from benchmarks.tiny import ENGINES
from online_synclr.config import Config, load_config
from online_synclr.config.checks import check_shares
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.objective.ids import image_pairs
from trainer.objective.model import build_model
from trainer.step import TrainStep

SMALL = (
    *ENGINES,
    "images.send_px=48",
    "images.render_px=48",
    "trainer.batch_groups=4",
    "trainer.crops={global_px: 48, local_px: 24}",
    "trainer.backbone_args={patch_size: 8, embed_dim: 96, depth: 4, num_heads: 3}",
    "trainer.contrastive={projector_hidden: 256, predictor_hidden: 256, out_dim: 64}",
    "trainer.mim={prototypes: 1024, hidden: 256, bottleneck: 64}",
)


def step_of(config: Config, micro_batches: int, recompute: bool) -> TrainStep:
    """A fresh step; equal settings give equal weights."""
    changes = {"micro_batches": micro_batches, "recompute_blocks": recompute}
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update=changes)})
    check_shares(config, num_trainers=1)
    model = build_model(config.trainer, run_seed=0, device=DEVICE)
    trainers = Trainers(index=0, size=1, device=DEVICE)
    return TrainStep(config, model=model, trainers=trainers, incarnation=1)


def random_batch(config: Config) -> Batch:
    """Noise, in groups that are all different."""
    per_group, side = config.images_per_group, config.images.send_px
    groups = torch.arange(config.trainer.batch_groups)
    num = len(groups) * per_group
    images = torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8)
    captions = torch.stack((groups, groups), dim=1).repeat_interleave(per_group, dim=0).to(DEVICE)
    return Batch(
        images_NCHW=images.to(DEVICE),
        captions_N2=captions,
        concepts_N2=captions // 2,
        images_N2=image_pairs(num, 0).to(DEVICE),
        num_groups=len(groups),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="instead of the small settings")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    config = load_config(args.config, [*(() if args.config else SMALL), *args.overrides])
    batch = random_batch(config)
    cases = {
        (parts, recompute): partial(step_of(config, parts, recompute), batch, 0)
        for recompute in (False, True)
        for parts in args.parts
    }
    names = {str(key): key for key in cases}
    times = interleave(
        {name: timed(cases[key], DEVICE) for name, key in names.items()}, args.repeats
    )
    base = times[next(iter(names))]
    rows = [
        [
            str(parts),
            "yes" if recompute else "no",
            f"{allocated_by(cases[parts, recompute], DEVICE).peak_bytes / 1e6:,.1f}",
            f"{spread([1e3 * value for value in times[name]]):,.0f}",
            f"{ratio(times[name], base):.2f}",
        ]
        for name, (parts, recompute) in names.items()
    ]
    head = ["micro-batches", "blocks recomputed", "peak MB", "ms", "time to that of the first"]
    print(table(head, rows))
    print(f"\n{describe('torch', 'timm')}")


if __name__ == "__main__":
    main()
