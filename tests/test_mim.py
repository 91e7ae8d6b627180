"""Sinkhorn-Knopp and the masked-image loss against plain float64 loops."""

import math

import pytest
import torch
from torch.nn import functional

from trainer.objective.gather import Trainers
from trainer.objective.mim import Targets, mim_loss
from trainer.objective.patch_scores import PatchScores
from trainer.objective.sinkhorn import sinkhorn_log_scale

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
    num_tokens = teacher.features_RZ.shape[0]
    targets = Targets(teacher, log_scale(teacher, iterations, chunk_logits), TEACHER_T, num_tokens)
    return mim_loss(student, targets, temperature=STUDENT_T, chunk_logits=chunk_logits)


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


def test_the_gradients_are_those_of_the_naive_loss() -> None:
    student, teacher = scores(0, gain=1.5), scores(1)
    targets = torch.tensor(naive_targets(teacher, 3), dtype=torch.float64)
    inputs = (student.features_RZ, student.prototypes_KZ)
    features, prototypes = (tensor.double().requires_grad_() for tensor in inputs)
    log_shares = (features @ prototypes.t() / STUDENT_T).log_softmax(dim=1)
    (-3.0 * (targets * log_shares).sum() / TOKENS).backward()
    for tensor in inputs:
        tensor.requires_grad_()
    (3.0 * loss(student, teacher, chunk_logits=PROTOTYPES * 5)).backward()
    for found, expected in zip(inputs, (features, prototypes), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-6, rtol=1e-4)


def test_bf16_products_give_a_loss_and_gradients_close_to_exact_ones() -> None:
    teacher = scores(1)
    exact, rough = scores(0), scores(0)
    found = []
    for student, in_bf16 in ((exact, False), (rough, True)):
        student.features_RZ.requires_grad_()
        student.prototypes_KZ.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            value = loss(student, teacher, chunk_logits=PROTOTYPES * 5)
        value.backward()
        found.append(value)
    assert found[1].dtype == torch.float32
    assert found[1].item() == pytest.approx(found[0].item(), rel=0.01)
    assert found[1].item() != found[0].item()
    for one, other in (
        (exact.features_RZ.grad, rough.features_RZ.grad),
        (exact.prototypes_KZ.grad, rough.prototypes_KZ.grad),
    ):
        assert one is not None
        assert other is not None
        assert other.dtype == torch.float32
        assert ((one - other).norm() / one.norm()).item() < 0.05


def test_a_second_backward_pass_is_refused() -> None:
    """Gradients are scaled where they lie; scaled twice they would be wrong."""
    student = scores(0)
    student.prototypes_KZ.requires_grad_()
    value = loss(student, scores(1))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_parts_of_the_tokens_add_up_to_the_loss_of_all() -> None:
    student, teacher = scores(0), scores(1)
    targets = Targets(teacher, log_scale(teacher, 3), TEACHER_T, TOKENS)
    total = 0.0
    for tokens in (slice(0, 5), slice(5, 5), slice(5, TOKENS)):
        part = PatchScores(student.features_RZ[tokens], student.prototypes_KZ)
        total += mim_loss(part, targets.of_tokens(tokens), temperature=STUDENT_T).item()
    assert total == pytest.approx(loss(student, teacher).item())


def test_no_tokens_give_gradients_of_zero() -> None:
    student, teacher = scores(0, tokens=0), scores(1, tokens=0)
    student.prototypes_KZ.requires_grad_()
    targets = Targets(teacher, torch.zeros(PROTOTYPES), TEACHER_T, TOKENS)
    mim_loss(student, targets, temperature=STUDENT_T).backward()
    assert student.prototypes_KZ.grad is not None
    assert student.prototypes_KZ.grad.abs().sum().item() == 0.0


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
