"""What embeddings look like without any label: alignment, uniformity and RankMe.

Wang & Isola, arXiv 2005.10242, eq. 2 and 3 with alpha = t = 2; Garrido et al., arXiv 2210.02885,
eq. 1 and 2. Each function is over the embeddings of all trainers, gives every trainer the same
number, and must be called by all of them with equally many rows. Work is shared out evenly.

Shapes: N embeddings of this trainer, M of all trainers, D dimensions, n images of a group.
"""

import math

import torch
from torch.nn.functional import normalize

from trainer.objective.gather import Trainers

RANKME_EPSILON = 1e-7
"""As in the paper, for float32."""
CHUNK_ROWS = 1024


def alignment(embeddings_ND: torch.Tensor, images_per_group: int, trainers: Trainers) -> float:
    """Mean squared distance, on the unit sphere, of two images of one group: 0 is best, 2 chance.

    E ||f(x) - f(y)||^2 over pairs of different images of a group

    Args:
        embeddings_ND: float, group by group: row i belongs to group i // n.
        images_per_group: n.
        trainers: that have rows.

    Returns:
        NaN where a group has one image or values are not finite.
    """
    if images_per_group < 2:
        return math.nan
    unit_ND = normalize(embeddings_ND.float(), dim=1)
    groups_GnD = unit_ND.view(-1, images_per_group, unit_ND.shape[1])
    # The sum over pairs of ||a - b||^2 is n times that of ||a||^2 less ||sum of a||^2.
    squares = images_per_group * groups_GnD.square().sum() - groups_GnD.sum(1).square().sum()
    num_pairs = groups_GnD.shape[0] * images_per_group * (images_per_group - 1) // 2
    total, count = trainers.sum_(_pair(squares, num_pairs)).tolist()
    return float(total / count)


def uniformity(embeddings_ND: torch.Tensor, ids_N2: torch.Tensor, trainers: Trainers) -> float:
    """How evenly embeddings cover the unit sphere; lower is better.

    log E exp(-2 ||f(x) - f(y)||^2) over pairs of embeddings of different identities

    Images of one caption are drawn together and lie close, which alignment measures; they would
    hide what this is about.

    Args:
        embeddings_ND: float.
        ids_N2: int64, identity of each row's caption.
        trainers: that have rows.

    Returns:
        NaN where all identities are the same or values are not finite.
    """
    unit_ND = normalize(embeddings_ND.float(), dim=1)
    unit_MD, ids_M2 = trainers.gather(unit_ND), trainers.gather(ids_N2)
    total = torch.zeros((), dtype=torch.float64, device=unit_ND.device)
    count = torch.zeros_like(total)
    for start in range(0, unit_ND.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        distances_RM = (2 - 2 * unit_ND[rows] @ unit_MD.T).clamp_min(0)
        others_RM = (ids_N2[rows, None] != ids_M2[None]).any(-1)
        total += torch.where(others_RM, (-2 * distances_RM).exp(), 0.0).sum(dtype=torch.float64)
        count += others_RM.sum()
    total_, count_ = trainers.sum_(torch.stack((total, count))).tolist()
    return math.log(total_ / count_) if count_ and total_ > 0 else math.nan


def rankme(embeddings_ND: torch.Tensor, trainers: Trainers) -> float:
    """Effective number of dimensions that embeddings use, from 1 to min(M, D).

    RankMe = exp(-sum_k p_k log p_k),  p_k = sigma_k / ||sigma||_1 + epsilon

    with the singular values sigma of the matrix of all embeddings, as they are: neither centred
    nor normalised. They are the roots of the eigenvalues of Z^T Z, whose parts add up over the
    trainers; in float64, so that squaring loses nothing of float32's accuracy.

    Args:
        embeddings_ND: float.
        trainers: that have rows.

    Returns:
        NaN where values are not finite or all zero.
    """
    values_ND = embeddings_ND.double()
    gram_DD = trainers.sum_(values_ND.T @ values_ND)
    if not bool(torch.isfinite(gram_DD).all()):
        return math.nan
    num_values = min(embeddings_ND.shape[0] * trainers.size, embeddings_ND.shape[1])
    sigma_K = torch.linalg.eigvalsh(gram_DD)[-num_values:].clamp_min(0).sqrt()
    shares_K = sigma_K / sigma_K.sum() + RANKME_EPSILON
    return float((-(shares_K * shares_K.log()).sum()).exp())


def _pair(total: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack((total.double(), total.new_full((), count, dtype=torch.float64)))
