"""The masked-image loss (iBOT, eq. 3) with Sinkhorn-Knopp targets over all trainers.

Both networks give, for each masked token, an L2-normalised feature z and share out its logits
s = z . w_k over K prototypes. The teacher's become a target distribution by Sinkhorn-Knopp:
starting from e_ik = exp(s_ik / T_t), a few rounds of (divide each prototype's column by its sum
over the tokens of all trainers, divide each token's row by its sum). The loss of a token is the
cross-entropy of the student's softmax(s / T_s) under the target; it is averaged over the masked
tokens of an image, then over the masked images, which have equally many.

With 65,536 prototypes the R x K logits of a large batch do not fit in memory. They are functions
of R x Z features, so they are computed chunk by chunk, in the backward pass once more. Sinkhorn is
the matrix u_i e_ik v_k with one scale per token and one per prototype; only log v outlives a chunk.
It is kept as a logarithm because prototypes have trained lengths: exp(s / T_t) of a single long one
would leave nothing of all others in float32.

Shapes: R masked tokens on this rank, r of them in a chunk, Z features, K prototypes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from trainer.objective.gather import Trainers

CHUNK_LOGITS = 2**27
"""Logits held at once (0.5 GB of float32); changes memory and speed, not the result."""
SMALLEST_SUM = 1e-30
"""A prototype whose share underflowed for every token must not become an infinite scale."""


@dataclass(frozen=True, slots=True)
class PatchScores:
    """Features of the masked tokens, `features_RZ`, and the prototypes, `prototypes_KZ`."""

    features_RZ: torch.Tensor
    prototypes_KZ: torch.Tensor


@torch.no_grad()
def sinkhorn_log_scale(
    teacher: PatchScores,
    *,
    temperature: float,
    iterations: int,
    trainers: Trainers,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """log v after `iterations` rounds; a token's target is softmax(s / T_t + log v).

    Args:
        teacher: features and prototypes of the teacher.
        temperature: T_t.
        iterations: rounds; 0 gives zeros, a plain softmax.
        trainers: the ranks whose tokens share the prototypes out.
        chunk_logits: logits held at once.

    Returns:
        float32 (K,). A round costs one all-reduce of K floats, the first round two.
    """
    log_scale_K = torch.zeros(teacher.prototypes_KZ.shape[0], device=teacher.features_RZ.device)
    chunks = _TeacherChunks(teacher, temperature, chunk_logits)
    for iteration in range(iterations):
        # Before the first round no row has been divided: tokens weigh what they are.
        if iteration == 0:
            log_scale_K = -_log_weights(chunks, trainers)
        else:
            log_scale_K = log_scale_K - _log_shares(chunks, log_scale_K, trainers)
    return log_scale_K


def _log_weights(chunks: "_TeacherChunks", trainers: Trainers) -> torch.Tensor:
    """log of the sum of e_ik over the tokens of all trainers, at any size of the logits."""
    log_sum_K = functools.reduce(
        torch.logaddexp, (tempered_rK.logsumexp(dim=0) for tempered_rK in chunks)
    )
    largest_K = trainers.max_(log_sum_K.clone())
    return trainers.sum_((log_sum_K - largest_K).exp_()).log_().add_(largest_K)


def _log_shares(
    chunks: "_TeacherChunks", log_scale_K: torch.Tensor, trainers: Trainers
) -> torch.Tensor:
    """log of the sum of the divided rows over the tokens of all trainers."""
    sum_K = torch.zeros_like(log_scale_K)
    for tempered_rK in chunks:
        sum_K += (tempered_rK + log_scale_K).softmax(dim=1).sum(dim=0)
    return trainers.sum_(sum_K).clamp_(min=SMALLEST_SUM).log_()


def mim_loss(
    student: PatchScores,
    teacher: PatchScores,
    log_scale_K: torch.Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Mean cross-entropy over the masked tokens of this rank.

    Args:
        student: features and prototypes with gradient.
        teacher: features and prototypes without.
        log_scale_K: from `sinkhorn_log_scale`.
        student_temperature: T_s.
        teacher_temperature: T_t.
        chunk_logits: logits held at once.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: student and teacher have not the same number of tokens.
    """
    num_tokens = student.features_RZ.shape[0]
    if num_tokens != teacher.features_RZ.shape[0]:
        raise ValueError(
            f"{num_tokens} student tokens against {teacher.features_RZ.shape[0]} of the teacher"
        )
    targets = _chunks(teacher.features_RZ, teacher.prototypes_KZ, chunk_logits)
    chunks = _chunks(student.features_RZ, student.prototypes_KZ, chunk_logits)
    total = student.features_RZ.new_zeros((), dtype=torch.float32)
    for features_rZ, target_rZ in zip(chunks, targets, strict=True):
        arguments = (
            features_rZ,
            student.prototypes_KZ,
            target_rZ,
            teacher.prototypes_KZ,
            log_scale_K,
            student_temperature,
            teacher_temperature,
        )
        if len(chunks) > 1 and torch.is_grad_enabled():
            total = total + checkpoint(
                _sum_of_chunk, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:
            total = total + _sum_of_chunk(*arguments)
    return total / num_tokens


def _sum_of_chunk(
    features_rZ: torch.Tensor,
    prototypes_KZ: torch.Tensor,
    target_rZ: torch.Tensor,
    target_prototypes_KZ: torch.Tensor,
    log_scale_K: torch.Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    with torch.no_grad():
        tempered_rK = _teacher_logits(target_rZ, target_prototypes_KZ, teacher_temperature)
        target_rK = tempered_rK.add_(log_scale_K).softmax(dim=1)
    logits_rK = (features_rZ @ prototypes_KZ.t()).float() / student_temperature
    return -(target_rK * logits_rK.log_softmax(dim=1)).sum()


def _teacher_logits(
    features_rZ: torch.Tensor, prototypes_KZ: torch.Tensor, temperature: float
) -> torch.Tensor:
    """s / T_t, float32."""
    return (features_rZ @ prototypes_KZ.t()).float().div_(temperature)


class _TeacherChunks:
    """The teacher's s / T_t, chunk by chunk, not to be changed; a single one is computed once."""

    def __init__(self, teacher: PatchScores, temperature: float, chunk_logits: int) -> None:
        self._teacher = teacher
        self._temperature = temperature
        self._chunks = _chunks(teacher.features_RZ, teacher.prototypes_KZ, chunk_logits)
        self._only = self._logits(self._chunks[0]) if len(self._chunks) == 1 else None

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self._only is not None:
            yield self._only
            return
        for features_rZ in self._chunks:
            yield self._logits(features_rZ)

    def _logits(self, features_rZ: torch.Tensor) -> torch.Tensor:
        return _teacher_logits(features_rZ, self._teacher.prototypes_KZ, self._temperature)


def _chunks(
    rows_RZ: torch.Tensor, prototypes_KZ: torch.Tensor, chunk_logits: int
) -> tuple[torch.Tensor, ...]:
    return rows_RZ.split(max(1, chunk_logits // prototypes_KZ.shape[0]))
