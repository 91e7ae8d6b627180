"""Sinkhorn-Knopp and the masked-image loss against plain float64 loops."""

import math

import pytest
import torch
from torch.nn import functional

from trainer.objective.gather import Trainers
from trainer.objective.mim import PatchScores, mim_loss, sinkhorn_log_scale

TOKENS, PROTOTYPES, FEATURES = 12, 9, 5
TEACHER_T, STUDENT_T = 0.05, 0.1


def scores(seed: int, tokens: int = TOKENS, gain: float = 1.0) -> PatchScores:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((tokens, FEATURES), generator=generator)
    prototypes = torch.randn((PROTOTYPES, FEATURES), generator=generator)
    return PatchScores(
        functional.normalize(features, dim=1), gain * functional.normalize(prototypes, dim=1)
    )


def logits(of: PatchScores) -> list[list[float]]:
    table: list[list[float]] = (of.features_RZ.double() @ of.prototypes_KZ.double().t()).tolist()
    return table


def naive_targets(teacher: PatchScores, iterations: int) -> list[list[float]]:
    """The published procedure: whole-matrix sum, then columns to 1/K and rows to 1/B in turn."""
    table = [[math.exp(value / TEACHER_T) for value in row] for row in logits(teacher)]
    num_rows, num_columns = len(table), len(table[0])
    whole = sum(map(sum, table))
    table = [[value / whole for value in row] for row in table]
    for _ in range(iterations):
        columns = [sum(row[k] for row in table) for k in range(num_columns)]
        table = [[value / columns[k] / num_columns for k, value in enumerate(row)] for row in table]
        table = [[value / sum(row) / num_rows for value in row] for row in table]
    return [[value / sum(row) for value in row] for row in table]


def naive_loss(student: PatchScores, targets: list[list[float]]) -> float:
    total = 0.0
    for row, target in zip(logits(student), targets, strict=True):
        log_sum = math.log(sum(math.exp(value / STUDENT_T) for value in row))
        total -= sum(t * (v / STUDENT_T - log_sum) for v, t in zip(row, target, strict=True))
    return total / len(targets)


def log_scale(teacher: PatchScores, iterations: int, chunk_logits: int = 2**20) -> torch.Tensor:
    return sinkhorn_log_scale(
        teacher,
        temperature=TEACHER_T,
        iterations=iterations,
        trainers=Trainers(),
        chunk_logits=chunk_logits,
    )


def loss(
    student: PatchScores, teacher: PatchScores, iterations: int = 3, chunk_logits: int = 2**20
) -> torch.Tensor:
    return mim_loss(
        student,
        teacher,
        log_scale(teacher, iterations, chunk_logits),
        student_temperature=STUDENT_T,
        teacher_temperature=TEACHER_T,
        chunk_logits=chunk_logits,
    )


@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
def test_the_loss_is_the_naive_one(iterations: int) -> None:
    student, teacher = scores(0), scores(1)
    expected = naive_loss(student, naive_targets(teacher, iterations))
    assert loss(student, teacher, iterations).item() == pytest.approx(expected, rel=2e-5)


def test_rounds_share_the_prototypes_out_evenly() -> None:
    teacher = scores(1)
    weights = torch.tensor(logits(teacher), dtype=torch.float64).div(TEACHER_T).exp()
    usage = []
    for iterations in (0, 3, 200):
        targets = weights * log_scale(teacher, iterations).exp()
        targets = targets / targets.sum(dim=1, keepdim=True)
        usage.append(targets.mean(dim=0))
    spread = [(share.max() - share.min()).item() for share in usage]
    assert spread[0] > 2 * spread[1] > 0
    torch.testing.assert_close(
        usage[2], torch.full_like(usage[2], 1 / PROTOTYPES), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("chunk_logits", [1, PROTOTYPES * 5, PROTOTYPES * TOKENS])
def test_chunks_change_neither_the_loss_nor_the_gradient(chunk_logits: int) -> None:
    teacher = scores(1)
    whole, parts = scores(0), scores(0)
    for student, size in ((whole, 2**20), (parts, chunk_logits)):
        student.features_RZ.requires_grad_()
        student.prototypes_KZ.requires_grad_()
        loss(student, teacher, chunk_logits=size).backward()
    torch.testing.assert_close(whole.features_RZ.grad, parts.features_RZ.grad)
    torch.testing.assert_close(whole.prototypes_KZ.grad, parts.prototypes_KZ.grad)


def test_sharp_targets_and_long_prototypes_do_not_overflow() -> None:
    student, teacher = scores(0, gain=3.0), scores(1, gain=3.0)
    expected = naive_loss(student, naive_targets(teacher, 3))
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)
    far = PatchScores(teacher.features_RZ, 60.0 * teacher.prototypes_KZ)
    assert torch.isfinite(loss(student, far))


@pytest.mark.parametrize("long", [4.0, 8.0])
@pytest.mark.parametrize("chunk_logits", [PROTOTYPES * 5, 2**20])
def test_one_long_prototype_leaves_the_others_shared_out(long: float, chunk_logits: int) -> None:
    student, teacher = scores(0), scores(1)
    teacher.prototypes_KZ[2] *= long
    expected = naive_loss(student, naive_targets(teacher, 3))
    found = loss(student, teacher, 3, chunk_logits).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_unequal_numbers_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="12 student tokens against 11"):
        loss(scores(0), scores(1, tokens=11))
