"""Peak memory and time of the contrastive loss of local crops and its gradient, by keys.

    python -m benchmarks.contrastive_memory [--keys 512 2048] [--repeats 9]

Random features stand in for the networks'. One trainer of eight holds an eighth of the images, one
key each, and four local crops of each: `--keys 32768` is the paper's batch. Compared are

- chunks: the project's loss, which takes the gradient while a chunk of logits is there;
- recomputed: crop by crop under `torch.utils.checkpoint`, logits made again in the backward pass;
- at once: plain autograd over the logits of all anchors.

Peaks are those of torch's allocator, beyond the inputs: on the CPU from the profiler's trace, on
CUDA `max_memory_allocated`.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.loss_memory import COLUMNS, DEVICE, measure
from benchmarks.measuring import REPEATS, describe, table
from trainer.objective.contrastive import CHUNK_LOGITS, Candidates, candidates, contrastive_loss

FEATURES, LOCALS, IMAGES_PER_GROUP, TRAINERS = 256, 4, 4, 8
TAU = 0.08
SMALL_CHUNK = 2**18
"""On CPUs, where the batch is small as well; speed hardly depends on it from here up."""


@dataclass(frozen=True)
class Case:
    """Inputs of one size."""

    anchors_AZ: torch.Tensor
    against: Candidates
    chunk_logits: int


def case_of(num_keys: int, chunk_logits: int) -> Case:
    """Random features; groups of four keys are one class."""
    generator = torch.Generator().manual_seed(0)

    def rows(num: int) -> torch.Tensor:
        return torch.randn((num, FEATURES), generator=generator).to(DEVICE)

    num_images = num_keys // TRAINERS
    ids_M2 = (torch.arange(num_keys, device=DEVICE) // IMAGES_PER_GROUP)[:, None].repeat(1, 2)
    against = candidates(
        rows(num_keys),
        classes_N2=ids_M2[:num_images],
        classes_M2=ids_M2,
        concepts_N2=ids_M2[:num_images],
        concepts_M2=ids_M2,
        negatives="all",
        first_own=0,
    )
    return Case(rows(LOCALS * num_images).requires_grad_(), against, chunk_logits)


def in_chunks(case: Case) -> torch.Tensor:
    """The project's loss."""
    return contrastive_loss(
        case.anchors_AZ,
        case.against,
        temperature=TAU,
        own_key=False,
        chunk_logits=case.chunk_logits,
    )


def recomputed(case: Case) -> torch.Tensor:
    """Crop by crop, logits made again in the backward pass."""
    total = torch.zeros((), device=DEVICE)
    for anchors_NZ in case.anchors_AZ.chunk(LOCALS):
        total = total + checkpoint(
            _plain, anchors_NZ, case.against, use_reentrant=False, preserve_rng_state=False
        )
    return total / LOCALS


def at_once(case: Case) -> torch.Tensor:
    """The logits of all anchors, kept for the backward pass."""
    return _plain(case.anchors_AZ, case.against)


def _plain(anchors_AZ: torch.Tensor, against: Candidates) -> torch.Tensor:
    positive_NM = against.positives()
    positive_AM = positive_NM.repeat(len(anchors_AZ) // len(positive_NM), 1)
    logits_AM = functional.normalize(anchors_AZ, dim=1) @ against.keys_MZ.t() / TAU
    mean_A = logits_AM.masked_fill(~positive_AM, 0.0).sum(dim=1) / positive_AM.sum(dim=1)
    return (logits_AM.logsumexp(dim=1) - mean_A).mean()


WAYS: dict[str, Callable[[Case], torch.Tensor]] = {
    "chunks": in_chunks,
    "recomputed": recomputed,
    "at once": at_once,
}


def rows_of(case: Case, repeats: int) -> list[list[str]]:
    """The table's rows of one size."""

    def backward(way: str) -> None:
        WAYS[way](case).backward()
        case.anchors_AZ.grad = None

    size = [f"{len(case.against.keys_MZ):,}", f"{len(case.anchors_AZ):,}"]
    measured = measure({way: partial(backward, way) for way in WAYS}, repeats, DEVICE)
    return [size + cells for cells in measured]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    on_gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    sizes = [8192, 32768] if on_gpu else [512, 2048]
    parser.add_argument("--keys", type=int, nargs="+", default=sizes)
    chunk = CHUNK_LOGITS if on_gpu else SMALL_CHUNK
    parser.add_argument("--chunk-logits", type=int, default=chunk)
    args = parser.parse_args(arguments)
    rows = [
        row
        for num_keys in args.keys
        for row in rows_of(case_of(num_keys, args.chunk_logits), args.repeats)
    ]
    print(table(["keys", "anchors", *COLUMNS], rows))
    print(f"\n{describe('torch')}")


if __name__ == "__main__":
    main()
