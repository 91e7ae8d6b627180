"""Memory of the losses does not grow with anchors x keys or tokens x prototypes."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.peak_memory import Allocated, allocated_by
from trainer.objective.contrastive import candidates, contrastive_loss
from trainer.objective.gather import Trainers
from trainer.objective.mim import Targets, mim_loss
from trainer.objective.patch_scores import PatchScores
from trainer.objective.sinkhorn import sinkhorn_log_scale

FEATURES, COLUMNS, CHUNK = 4, 512, 2**13
CHUNK_BYTES = 4 * CHUNK
FEW, MANY = 64, 512
"""Rows: of either, the logits are several chunks."""


def rows(num: int, seed: int) -> torch.Tensor:
    return torch.randn((num, FEATURES), generator=torch.Generator().manual_seed(seed))


def masked_images(num_tokens: int, chunk_logits: int) -> Callable[[], None]:
    """Sinkhorn, loss and backward pass against COLUMNS prototypes."""
    student = PatchScores(rows(num_tokens, 0).requires_grad_(), rows(COLUMNS, 1).requires_grad_())
    teacher = PatchScores(rows(num_tokens, 2), rows(COLUMNS, 3))

    def work() -> None:
        log_scale_K = sinkhorn_log_scale(
            teacher,
            temperature=0.1,
            iterations=3,
            trainers=Trainers(),
            chunk_logits=chunk_logits,
        )
        targets = Targets(teacher, log_scale_K, 0.1, num_tokens)
        mim_loss(student, targets, temperature=0.1, chunk_logits=chunk_logits).backward()

    return work


def contrastive(num_images: int, chunk_logits: int) -> Callable[[], None]:
    """Loss and backward pass of one global and two local crops, against COLUMNS keys."""
    anchors = rows(2 * num_images, 0).requires_grad_()
    ids = torch.arange(COLUMNS)[:, None].repeat(1, 2) // 4
    against = candidates(
        rows(COLUMNS, 1),
        classes_N2=ids[:num_images],
        classes_M2=ids,
        concepts_N2=ids[:num_images] // 2,
        concepts_M2=ids // 2,
        negatives="other_concepts",
        first_own=0,
    )

    def work() -> None:
        for own, crops_AZ in ((True, anchors[:num_images]), (False, anchors)):
            contrastive_loss(
                crops_AZ, against, temperature=0.1, own_key=own, chunk_logits=chunk_logits
            ).backward()

    return work


LOSSES = {"masked images": masked_images, "contrastive": contrastive}


def allocated(loss: str, num_rows: int, chunk_logits: int = CHUNK) -> Allocated:
    work = LOSSES[loss](num_rows, chunk_logits)
    work()
    return allocated_by(work)


@pytest.mark.parametrize("loss", LOSSES)
def test_memory_is_that_of_a_few_chunks_whatever_the_number_of_rows(loss: str) -> None:
    few, many = allocated(loss, FEW), allocated(loss, MANY)
    assert few.largest_bytes == many.largest_bytes == CHUNK_BYTES
    # What grows are rows of features, gradients and identities, a few numbers each.
    grown = many.peak_bytes - few.peak_bytes
    assert grown < 20 * 4 * FEATURES * (MANY - FEW) < 4 * COLUMNS * (MANY - FEW) // 4
    assert many.peak_bytes < 4 * CHUNK_BYTES + 20 * 4 * FEATURES * (MANY + COLUMNS)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_chunk_takes_what_all_logits_take(loss: str) -> None:
    """The measurement does see them: without chunks memory grows with the rows."""
    few, many = allocated(loss, FEW, 2**62), allocated(loss, MANY, 2**62)
    assert few.largest_bytes == 4 * COLUMNS * FEW
    assert many.largest_bytes == 4 * COLUMNS * MANY
