"""The multi-positive contrastive loss (SynCLR, eq. 1-3; StableRep, eq. 2).

Anchors a are the student's predictions, candidates b_1..b_M the teacher's projections of the global
crops of all trainers, without gradient, all L2-normalised. With q_i = exp(a.b_i / tau) / sum_j
exp(a.b_j / tau) and p uniform over the candidates of the anchor's class, the loss is
H(p, q) = -sum_i p_i log q_i. The anchor of a global crop leaves its own crop's key out of both p
and q; the anchor of a local crop leaves none out.

At the paper's size the logits of all anchors are tens of gigabytes. They are computed for a few
images at a time, and the gradient d H / d a = (sum_i q_i b_i - sum_i p_i b_i) / tau is taken at
once, while they are there: nothing of their size outlives its chunk, and the backward pass only
scales (anchors, Z) numbers.

Shapes: N images on this rank, n of them in a chunk, C crops an image (G global ones, L local ones),
M = ranks * G * N candidates, Z features. Rows are ordered crop by crop: row c * N + i is crop c of
image i.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.objective.ids import same
from trainer.objective.precision import full_precision

CHUNK_LOGITS = 2**25
"""Logits held at once (134 MB of float32); changes memory and speed, not the result."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Keys of all trainers, and what tells which of them concern this rank's images.

    `keys_MZ` float32, L2-normalised, no gradient. `classes_N2`, `classes_M2` int64: equal ones are
    positives. `concepts_N2`, `concepts_M2` int64, or none: candidates of another class but the same
    concept are left out. The key of crop c of image i is row `own_N[i] + c * num_images`.
    """

    keys_MZ: torch.Tensor
    classes_N2: torch.Tensor
    classes_M2: torch.Tensor
    concepts_N2: torch.Tensor | None
    concepts_M2: torch.Tensor | None
    own_N: torch.Tensor
    num_images: int

    def of_images(self, rows: torch.Tensor | slice) -> "Candidates":
        """The same candidates for some of the images; rows are numbers of this rank's images."""
        return replace(
            self,
            classes_N2=self.classes_N2[rows],
            concepts_N2=None if self.concepts_N2 is None else self.concepts_N2[rows],
            own_N=self.own_N[rows],
        )

    def positives(self) -> torch.Tensor:
        """bool (N, M): same class."""
        return same(self.classes_N2, self.classes_M2)

    def left_out(self, positive_NM: torch.Tensor) -> torch.Tensor | None:
        """bool (N, M), or none for none: what is in no denominator, but for own keys."""
        if self.concepts_N2 is None or self.concepts_M2 is None:
            return None
        return same(self.concepts_N2, self.concepts_M2).logical_and_(~positive_NM)


def candidates(
    keys_MZ: torch.Tensor,
    *,
    classes_N2: torch.Tensor,
    classes_M2: torch.Tensor,
    concepts_N2: torch.Tensor,
    concepts_M2: torch.Tensor,
    negatives: Literal["all", "other_concepts"],
    first_own: int,
) -> Candidates:
    """Normalise the keys once for all anchors.

    Args:
        keys_MZ: teacher projections of all trainers, any float dtype.
        classes_N2: int64, class of each local image.
        classes_M2: int64, class of each candidate.
        concepts_N2: int64, concept of each local image.
        concepts_M2: int64, concept of each candidate.
        negatives: `other_concepts` leaves candidates of another class but the same concept out.
        first_own: row of this rank's first key in `keys_MZ`.

    Returns:
        The candidates; nothing in them has a gradient.
    """
    by_concept = negatives == "other_concepts"
    num = classes_N2.shape[0]
    with torch.no_grad(), full_precision(keys_MZ.device):
        return Candidates(
            keys_MZ=_normalise(keys_MZ),
            classes_N2=classes_N2,
            classes_M2=classes_M2,
            concepts_N2=concepts_N2 if by_concept else None,
            concepts_M2=concepts_M2 if by_concept else None,
            own_N=torch.arange(first_own, first_own + num, device=keys_MZ.device),
            num_images=num,
        )


def contrastive_loss(
    anchors_AZ: torch.Tensor,
    against: Candidates,
    *,
    temperature: float,
    own_key: bool,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Mean of H(p, q) over the anchors of this rank's crops, in float32.

    Args:
        anchors_AZ: predictions (C * N, Z), any float dtype.
        against: the candidates of the same N images.
        temperature: tau.
        own_key: whether each anchor's own crop is among the candidates and must be left out
            (global crops).
        chunk_logits: logits held at once.

    Returns:
        A float32 scalar. An anchor without a positive counts as zero; settings for which there
        would be one are refused at the start (config.objective_checks). It has no second
        derivative.

    Raises:
        ValueError: the number of anchors is not a multiple of the number of images.
    """
    num = against.classes_N2.shape[0]
    if anchors_AZ.shape[0] % num:
        raise ValueError(f"{anchors_AZ.shape[0]} anchors are not crops of {num} images")
    with full_precision(anchors_AZ.device):
        if not anchors_AZ.shape[0]:
            return anchors_AZ.new_zeros((), dtype=torch.float32)
        anchors_CNZ = _normalise(anchors_AZ).unflatten(0, (-1, num))
        total: torch.Tensor = _SumOverAnchors.apply(
            anchors_CNZ, against, temperature, own_key, chunk_logits
        )
        return total / anchors_AZ.shape[0]


class _SumOverAnchors(torch.autograd.Function):
    """Sum of H(p, q) over the anchors; the forward pass takes the gradient as well."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors_CNZ: torch.Tensor,
        against: Candidates,
        temperature: float,
        own_key: bool,
        chunk_logits: int,
    ) -> torch.Tensor:
        num = anchors_CNZ.shape[1]
        gradient_CNZ = torch.empty_like(anchors_CNZ) if ctx.needs_input_grad[0] else None
        total = anchors_CNZ.new_zeros(())
        chunk = max(1, chunk_logits // against.keys_MZ.shape[0])
        for start in range(0, num, chunk):
            images = slice(start, start + chunk)
            anchors_CnZ = anchors_CNZ[:, images]
            out_CnZ = None if gradient_CNZ is None else gradient_CNZ[:, images]
            of_images = against.of_images(images)
            total += _sum_of_images(anchors_CnZ, of_images, temperature, own_key, out_CnZ)
        ctx.save_for_backward(gradient_CNZ)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_CNZ,) = ctx.saved_tensors
        return None if gradient_CNZ is None else gradient_CNZ * outer, None, None, None, None


def _sum_of_images(
    anchors_CnZ: torch.Tensor,
    against: Candidates,
    temperature: float,
    own_key: bool,
    gradient_CnZ: torch.Tensor | None,
) -> torch.Tensor:
    """Sum over all crops of some images; their gradient is written where there is room for it."""
    positive_nM = against.positives()
    left_out_nM = against.left_out(positive_nM)
    # sum_i p_i a.b_i is a.(sum_i p_i b_i): one product for all crops of an image.
    ones_nM = positive_nM.float()
    num_positives_n, sums_nZ = ones_nM.sum(dim=1), ones_nM @ against.keys_MZ
    del positive_nM, ones_nM
    total = anchors_CnZ.new_zeros(())
    for crop, anchors_nZ in enumerate(anchors_CnZ):
        own_n = against.own_N + crop * against.num_images if own_key else None
        num_n, wanted_nZ = num_positives_n, sums_nZ
        if own_n is not None:
            num_n, wanted_nZ = num_n - 1, sums_nZ - against.keys_MZ[own_n]
        wanted_nZ = wanted_nZ / num_n.clamp(min=1)[:, None]
        log_sum_n, mean_nZ = _softmax(anchors_nZ, against, temperature, left_out_nM, own_n)
        some_n = num_n > 0
        loss_n = log_sum_n - (anchors_nZ * wanted_nZ).sum(dim=1) / temperature
        total += loss_n.where(some_n, torch.zeros_like(loss_n)).sum()
        if gradient_CnZ is not None:
            steps_nZ = (mean_nZ - wanted_nZ) / temperature
            gradient_CnZ[crop] = steps_nZ.where(some_n[:, None], torch.zeros_like(steps_nZ))
    return total


def _softmax(
    anchors_nZ: torch.Tensor,
    against: Candidates,
    temperature: float,
    left_out_nM: torch.Tensor | None,
    own_n: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum_j exp(a.b_j / tau), (n,), and sum_i q_i b_i, (n, Z); one n x M buffer is all."""
    logits_nM = (anchors_nZ / temperature) @ against.keys_MZ.t()
    if left_out_nM is not None:
        logits_nM.masked_fill_(left_out_nM, float("-inf"))
    if own_n is not None:
        logits_nM.scatter_(1, own_n[:, None], float("-inf"))
    largest_n1 = logits_nM.amax(dim=1, keepdim=True)
    weights_nM = logits_nM.sub_(largest_n1).exp_()
    sum_n1 = weights_nM.sum(dim=1, keepdim=True)
    mean_nZ = (weights_nM @ against.keys_MZ) / sum_n1
    return (sum_n1.log() + largest_n1)[:, 0], mean_nZ


def _normalise(rows_NZ: torch.Tensor) -> torch.Tensor:
    return functional.normalize(rows_NZ.float(), dim=1)
