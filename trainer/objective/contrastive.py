"""The multi-positive contrastive loss (SynCLR, eq. 1-3; StableRep, eq. 2).

Anchors a are the student's predictions, candidates b_1..b_M the teacher's projections of the global
crops of all trainers, without gradient, all L2-normalised. With q_i = exp(a.b_i / tau) / sum_j
exp(a.b_j / tau) and p uniform over the candidates of the anchor's class, the loss is
H(p, q) = -sum_i p_i log q_i. The anchor of a global crop leaves its own crop's key out of both p
and q; the anchor of a local crop leaves none out.

Shapes: N images on this rank, G and L crops an image, M = ranks * G * N candidates, Z features.
Rows are ordered crop by crop: row c * N + i is crop c of image i.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.objective.ids import same
from trainer.objective.precision import full_precision


@dataclass(frozen=True, slots=True)
class Candidates:
    """Keys of all trainers and which of them concern this rank's images.

    `keys_MZ` float32, L2-normalised, no gradient; `positive_NM` bool: same class as image n;
    `kept_NM` bool, or none for all: what is in the denominator, positives included; `first_own` is
    the row of this rank's first key.
    """

    keys_MZ: torch.Tensor
    positive_NM: torch.Tensor
    kept_NM: torch.Tensor | None
    first_own: int


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
    """Normalise the keys and compare identities once for all crops of an image.

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
    with torch.no_grad(), full_precision(keys_MZ.device):
        positive_NM = same(classes_N2, classes_M2)
        kept_NM = None
        if negatives == "other_concepts":
            kept_NM = positive_NM | ~same(concepts_N2, concepts_M2)
        return Candidates(_normalise(keys_MZ), positive_NM, kept_NM, first_own)


def contrastive_loss(
    anchors_AZ: torch.Tensor, against: Candidates, *, temperature: float, own_key: bool
) -> torch.Tensor:
    """Mean of H(p, q) over the anchors of this rank's crops, in float32.

    Crops of one index are computed together, and with more than one crop their logits are computed
    again in the backward pass instead of kept: N x M floats a crop are the largest thing here.

    Args:
        anchors_AZ: predictions (crops * N, Z), any float dtype.
        against: the candidates.
        temperature: tau.
        own_key: whether each anchor's own crop is among the candidates and must be left out
            (global crops); the rows must then be those of this rank's keys, in order.

    Returns:
        A float32 scalar. An anchor without a positive counts as zero; settings for which there
        would be one are refused at the start (config.objective_checks).

    Raises:
        ValueError: the number of anchors is not a multiple of the number of images.
    """
    num = against.positive_NM.shape[0]
    if anchors_AZ.shape[0] % num:
        raise ValueError(f"{anchors_AZ.shape[0]} anchors are not crops of {num} images")
    total = anchors_AZ.new_zeros((), dtype=torch.float32)
    crops = anchors_AZ.unflatten(0, (-1, num)).unbind() if anchors_AZ.shape[0] else ()
    for crop, anchors_NZ in enumerate(crops):
        own = against.first_own + crop * num if own_key else None
        if len(crops) > 1 and torch.is_grad_enabled():
            total = total + checkpoint(
                _mean_of_crop,
                anchors_NZ,
                against,
                temperature,
                own,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            total = total + _mean_of_crop(anchors_NZ, against, temperature, own)
    return total / max(1, len(crops))


def _mean_of_crop(
    anchors_NZ: torch.Tensor, against: Candidates, temperature: float, own: int | None
) -> torch.Tensor:
    with full_precision(anchors_NZ.device):
        logits_NM = _normalise(anchors_NZ) @ against.keys_MZ.t() / temperature
        positive_NM, left_out_NM = _masks(against, own)
        if left_out_NM is not None:
            logits_NM = logits_NM.masked_fill(left_out_NM, float("-inf"))
        num_positives_N = positive_NM.sum(dim=1)
        of_positives_N = logits_NM.masked_fill(~positive_NM, 0.0).sum(dim=1)
        loss_N = logits_NM.logsumexp(dim=1) - of_positives_N / num_positives_N.clamp(min=1)
        return torch.where(num_positives_N > 0, loss_N, torch.zeros_like(loss_N)).mean()


def _masks(against: Candidates, own: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    positive_NM = against.positive_NM
    left_out_NM = None if against.kept_NM is None else ~against.kept_NM
    if own is None:
        return positive_NM, left_out_NM
    num = positive_NM.shape[0]
    positive_NM = positive_NM.clone()
    positive_NM[:, own : own + num].fill_diagonal_(False)
    if left_out_NM is None:
        left_out_NM = torch.zeros_like(positive_NM)
    left_out_NM[:, own : own + num].fill_diagonal_(True)
    return positive_NM, left_out_NM


def _normalise(rows_NZ: torch.Tensor) -> torch.Tensor:
    return functional.normalize(rows_NZ.float(), dim=1)
