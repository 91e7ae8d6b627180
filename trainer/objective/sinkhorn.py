"""Sinkhorn-Knopp over the masked tokens of all trainers: even use of the prototypes.

Starting from e_ik = exp(s_ik / T_t), a few rounds of (divide each prototype's column by its sum
over the tokens of all trainers, divide each token's row by its sum). The outcome is the matrix
u_i e_ik v_k with one scale per token and one per prototype, so only log v outlives a chunk of
logits. It is kept as a logarithm because prototypes have trained lengths: exp(s / T_t) of a single
long one would leave nothing of all others in float32.

Shapes: R masked tokens on this rank, r of them in a chunk, Z features, K prototypes.
"""

import functools
from collections.abc import Iterator

import torch

from trainer.objective.gather import Trainers
from trainer.objective.patch_scores import CHUNK_LOGITS, PatchScores, TemperedLogits

SMALLEST_SUM = 1e-30
"""A prototype whose share underflowed for every token must not become an infinite scale."""


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
        teacher: features and prototypes of the teacher, of all tokens of this rank's step.
        temperature: T_t.
        iterations: rounds; 0 gives zeros, a plain softmax.
        trainers: the ranks whose tokens share the prototypes out.
        chunk_logits: logits held at once.

    Returns:
        float32 (K,). A round costs one all-reduce of K floats, the first round two.
    """
    log_scale_K = torch.zeros(teacher.prototypes_KZ.shape[0], device=teacher.features_RZ.device)
    chunks = _Chunks(TemperedLogits(teacher, temperature), chunk_logits)
    for iteration in range(iterations):
        # Before the first round no row has been divided: tokens weigh what they are.
        if iteration == 0:
            log_scale_K = -_log_weights(chunks, trainers)
        else:
            log_scale_K = log_scale_K - _log_shares(chunks, log_scale_K, trainers)
    return log_scale_K


def _log_weights(chunks: "_Chunks", trainers: Trainers) -> torch.Tensor:
    """log of the sum of e_ik over the tokens of all trainers, at any size of the logits."""
    log_sum_K = functools.reduce(
        torch.logaddexp, (tempered_rK.logsumexp(dim=0) for tempered_rK in chunks)
    )
    largest_K = trainers.max_(log_sum_K.clone())
    return trainers.sum_((log_sum_K - largest_K).exp_()).log_().add_(largest_K)


def _log_shares(chunks: "_Chunks", log_scale_K: torch.Tensor, trainers: Trainers) -> torch.Tensor:
    """log of the sum of the divided rows over the tokens of all trainers."""
    sum_K = torch.zeros_like(log_scale_K)
    for tempered_rK in chunks:
        sum_K += (tempered_rK + log_scale_K).softmax(dim=1).sum(dim=0)
    return trainers.sum_(sum_K).clamp_(min=SMALLEST_SUM).log_()


class _Chunks:
    """s / T_t, chunk by chunk, not to be changed; a single one is computed once."""

    def __init__(self, logits: TemperedLogits, chunk_logits: int) -> None:
        self._logits = logits
        self._slices = tuple(logits.chunks(chunk_logits))
        self._only = logits(self._slices[0]) if len(self._slices) == 1 else None

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self._only is not None:
            yield self._only
            return
        for tokens in self._slices:
            yield self._logits(tokens)
