"""The masked-image loss (iBOT, eq. 3) against Sinkhorn-Knopp targets (trainer.objective.sinkhorn).

Both networks give, for each masked token, an L2-normalised feature z and share out its logits
s = z . w_k over K prototypes. The teacher's become the target t = softmax(s / T_t + log v). The
loss of a token is the cross-entropy of the student's softmax(s / T_s) under the target; it is
averaged over the masked tokens of an image, then over the masked images, which have equally many.

With 65,536 prototypes the R x K logits of a large batch do not fit in memory. They are computed
chunk by chunk from R x Z features, and as soon as a chunk is there its share of the gradients is
taken from softmax(s / T_s) - t: nothing of its size outlives it, the prototypes' gradient is one
K x Z buffer, and the backward pass only scales what is known already.

Shapes: R masked tokens, r of them in a chunk, Z features, K prototypes.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer.objective.patch_scores import CHUNK_LOGITS, PatchScores, TemperedLogits
from trainer.objective.precision import full_precision


@dataclass(frozen=True, slots=True)
class Targets:
    """What masked tokens are compared with; nothing in it has a gradient.

    `scores`: the teacher's; `log_scale_K`: from `sinkhorn_log_scale`; `temperature`: T_t;
    `num_tokens`: of the rank's whole step, over which the loss is a mean.
    """

    scores: PatchScores
    log_scale_K: torch.Tensor
    temperature: float
    num_tokens: int

    def of_tokens(self, tokens: slice) -> "Targets":
        """The targets of some of the tokens."""
        features_RZ = self.scores.features_RZ[tokens]
        return replace(self, scores=PatchScores(features_RZ, self.scores.prototypes_KZ))


def mim_loss(
    student: PatchScores,
    targets: Targets,
    *,
    temperature: float,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """The tokens' cross-entropies, summed and divided by `targets.num_tokens`.

    Args:
        student: features and prototypes with gradient.
        targets: of the same tokens.
        temperature: T_s.
        chunk_logits: logits held at once.

    Returns:
        A float32 scalar without a second derivative: the mean over the rank's masked tokens, or
        the given tokens' part of it. No tokens give zero, and gradients of zero to the prototypes,
        so that every parameter takes part in averaging gradients over the trainers.

    Raises:
        ValueError: student and teacher have not the same number of tokens.
    """
    num_tokens, of_teacher = (of.features_RZ.shape[0] for of in (student, targets.scores))
    if num_tokens != of_teacher:
        raise ValueError(f"{num_tokens} student tokens against {of_teacher} of the teacher")
    total: torch.Tensor = _SumOverTokens.apply(
        student.features_RZ, student.prototypes_KZ, targets, temperature, chunk_logits
    )
    return total / targets.num_tokens


class _SumOverTokens(torch.autograd.Function):
    """Sum of the cross-entropies; the forward pass takes the gradients as well."""

    @staticmethod
    def forward(
        ctx: Any,
        features_RZ: torch.Tensor,
        prototypes_KZ: torch.Tensor,
        targets: Targets,
        temperature: float,
        chunk_logits: int,
    ) -> torch.Tensor:
        student = TemperedLogits(PatchScores(features_RZ, prototypes_KZ), temperature)
        teacher = TemperedLogits(targets.scores, targets.temperature)
        gradients = _Gradients(student) if any(ctx.needs_input_grad) else None
        total = torch.zeros((), device=features_RZ.device)
        for tokens in student.chunks(chunk_logits):
            target_rK = teacher(tokens).add_(targets.log_scale_K).softmax(dim=1)
            total += _sum_of_chunk(student, tokens, target_rK, gradients)
        if gradients is not None:
            # Tempered features carry one 1 / T_s already, the prototypes none.
            gradients.features_RZ.mul_(1.0 / temperature)
            ctx.save_for_backward(gradients.features_RZ, gradients.prototypes_KZ)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features_RZ, prototypes_KZ = ctx.saved_tensors
        # In place: a second K x Z buffer is 67 MB. Autograd refuses a second backward pass then.
        return features_RZ.mul_(outer), prototypes_KZ.mul_(outer), None, None, None


class _Gradients:
    """Gradients in features and prototypes, float32, summed up chunk by chunk."""

    def __init__(self, logits: TemperedLogits) -> None:
        self._logits = logits
        self.features_RZ = torch.zeros_like(logits.features_RZ, dtype=torch.float32)
        self.prototypes_KZ = torch.zeros_like(logits.prototypes_KZ, dtype=torch.float32)

    def subtract(self, tokens: slice, falling_rK: torch.Tensor) -> None:
        """Take in a chunk of which `falling_rK` is minus the gradient in the logits."""
        factors_rK = falling_rK.to(self._logits.features_RZ.dtype)
        self.features_RZ[tokens] -= factors_rK @ self._logits.prototypes_KZ
        if factors_rK.dtype == torch.float32:
            features_rZ = self._logits.features_RZ[tokens]
            self.prototypes_KZ.addmm_(factors_rK.t(), features_rZ, alpha=-1.0)
        else:
            self.prototypes_KZ -= factors_rK.t() @ self._logits.features_RZ[tokens]


def _sum_of_chunk(
    student: TemperedLogits, tokens: slice, target_rK: torch.Tensor, gradients: _Gradients | None
) -> torch.Tensor:
    """Sum over the tokens of a chunk. Two r x K buffers are all; the target's is used up."""
    with full_precision(target_rK.device):
        logits_rK = student(tokens)
        logits_rK.sub_(logits_rK.amax(dim=1, keepdim=True))
        hits_r = torch.linalg.vecdot(target_rK, logits_rK)
        weights_rK = logits_rK.exp_()
        sum_r1 = weights_rK.sum(dim=1, keepdim=True)
        if gradients is not None:
            falling_rK = target_rK.addcmul_(weights_rK, sum_r1.reciprocal(), value=-1.0)
            gradients.subtract(tokens, falling_rK)
        # A target sums to one, so that what was subtracted from the logits cancels.
        return (sum_r1.log()[:, 0] - hits_r).sum()
