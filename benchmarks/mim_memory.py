"""Peak memory and time of the masked-image loss and its gradients, by tokens and prototypes.

    python -m benchmarks.mim_memory [--repeats 9] [--precision fp32 bf16] [--chunk-logits N]

Random features stand in for the networks'. Sinkhorn's rounds are part of the work. Compared are

- chunks: the project's loss, which takes the gradients while a chunk of logits is there;
- recomputed: the same chunks under `torch.utils.checkpoint`, logits made again in the backward
  pass;
- at once: plain autograd over all logits, which is what iBOT's code does.

There are as many tokens as make one chunk, and 4 times as many. Peaks are those of torch's
allocator, beyond the inputs: on the CPU from the profiler's trace, on CUDA `max_memory_allocated`.
On the CPU chunks are a sixteenth of the project's, so that a run takes a minute.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.loss_memory import COLUMNS, DEVICE, LOGITS, measure
from benchmarks.measuring import REPEATS, describe, table
from trainer.objective.gather import Trainers
from trainer.objective.mim import Targets, mim_loss
from trainer.objective.patch_scores import PatchScores
from trainer.objective.precision import Precision, autocast
from trainer.objective.sinkhorn import sinkhorn_log_scale

FEATURES = 256
STUDENT_T, TEACHER_T = 0.1, 0.05
ITERATIONS = 3
GROWTH = 4


@dataclass(frozen=True)
class Case:
    """Inputs of one size; `chunk_logits` is what the chunked ways may hold."""

    student: PatchScores
    teacher: PatchScores
    chunk_logits: int

    def log_scale(self, chunk_logits: int) -> torch.Tensor:
        """Sinkhorn's outcome."""
        return sinkhorn_log_scale(
            self.teacher,
            temperature=TEACHER_T,
            iterations=ITERATIONS,
            trainers=Trainers(),
            chunk_logits=chunk_logits,
        )


def case_of(num_tokens: int, num_prototypes: int, chunk_logits: int) -> Case:
    """Random features of length one; the student's have gradients."""
    generator = torch.Generator().manual_seed(0)

    def rows(num: int) -> torch.Tensor:
        return functional.normalize(torch.randn((num, FEATURES), generator=generator)).to(DEVICE)

    student = PatchScores(rows(num_tokens).requires_grad_(), rows(num_prototypes).requires_grad_())
    return Case(student, PatchScores(rows(num_tokens), rows(num_prototypes)), chunk_logits)


def in_chunks(case: Case) -> torch.Tensor:
    """The project's loss."""
    num_tokens = case.teacher.features_RZ.shape[0]
    log_scale_K = case.log_scale(case.chunk_logits)
    targets = Targets(case.teacher, log_scale_K, TEACHER_T, num_tokens)
    return mim_loss(case.student, targets, temperature=STUDENT_T, chunk_logits=case.chunk_logits)


def recomputed(case: Case) -> torch.Tensor:
    """Chunks whose logits are made again in the backward pass."""
    log_scale_K = case.log_scale(case.chunk_logits)
    prototypes_KZ = case.student.prototypes_KZ
    size = max(1, case.chunk_logits // prototypes_KZ.shape[0])
    total = torch.zeros((), device=DEVICE)
    for features_rZ, teacher_rZ in zip(
        case.student.features_RZ.split(size), case.teacher.features_RZ.split(size), strict=True
    ):
        arguments = (features_rZ, prototypes_KZ, teacher_rZ, case.teacher.prototypes_KZ)
        total = total + checkpoint(
            _plain_sum, *arguments, log_scale_K, use_reentrant=False, preserve_rng_state=False
        )
    return total / case.student.features_RZ.shape[0]


def at_once(case: Case) -> torch.Tensor:
    """All logits of both networks, kept for the backward pass."""
    student, teacher = case.student, case.teacher
    total = _plain_sum(
        student.features_RZ,
        student.prototypes_KZ,
        teacher.features_RZ,
        teacher.prototypes_KZ,
        case.log_scale(2**62),
    )
    return total / student.features_RZ.shape[0]


def _plain_sum(
    features_rZ: torch.Tensor,
    prototypes_KZ: torch.Tensor,
    teacher_rZ: torch.Tensor,
    teacher_KZ: torch.Tensor,
    log_scale_K: torch.Tensor,
) -> torch.Tensor:
    with torch.no_grad():
        tempered_rK = (teacher_rZ @ teacher_KZ.t()).float().div_(TEACHER_T)
        target_rK = tempered_rK.add_(log_scale_K).softmax(dim=1)
    logits_rK = (features_rZ @ prototypes_KZ.t()).float() / STUDENT_T
    return -(target_rK * logits_rK.log_softmax(dim=1)).sum()


WAYS: dict[str, Callable[[Case], torch.Tensor]] = {
    "chunks": in_chunks,
    "recomputed": recomputed,
    "at once": at_once,
}


def rows_of(case: Case, precision: Precision, repeats: int) -> list[list[str]]:
    """The table's rows of one size."""

    def backward(way: str) -> None:
        with autocast(precision, DEVICE):
            loss = WAYS[way](case)
        loss.backward()
        case.student.features_RZ.grad = case.student.prototypes_KZ.grad = None

    size = [
        f"{case.student.prototypes_KZ.shape[0]:,}",
        f"{case.student.features_RZ.shape[0]:,}",
        precision,
    ]
    measured = measure({way: partial(backward, way) for way in WAYS}, repeats, DEVICE)
    return [size + cells for cells in measured]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--prototypes", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--chunk-logits", type=int, default=LOGITS)
    args = parser.parse_args(arguments)
    rows = []
    for precision in args.precision:
        for prototypes in args.prototypes:
            for growth in (1, GROWTH):
                tokens = growth * args.chunk_logits // prototypes
                case = case_of(tokens, prototypes, args.chunk_logits)
                rows += rows_of(case, precision, args.repeats)
    print(table(["prototypes", "tokens", "precision", *COLUMNS], rows))
    print(f"\n{describe('torch')}")


if __name__ == "__main__":
    main()
