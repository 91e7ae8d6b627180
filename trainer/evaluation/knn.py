"""Weighted nearest neighbours: images judged by a bank, or each by all the others (leave-one-out).

    label = argmax_c sum over the K nearest k of [label_k = c] exp(cos(q, k) / temperature)

Shapes: Q queries, N images in the bank, D features, K neighbours, C labels, J numbers of
neighbours.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

TEMPERATURE = 0.07
"""Of the neighbours' weights exp(cosine / temperature), after Wu et al., arXiv 1805.01978."""
CHUNK_QUERIES = 1024
CHUNK_COSINES = 2**28
"""Cosines computed at once, at most: a gigabyte, with a bank of any size."""


def leave_one_out_accuracy(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    neighbours: int,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of images whose label the `neighbours` nearest others predict.

    Features that are not finite can have no neighbours; the result is then NaN rather than a
    number that looks like a measurement.

    Raises:
        ValueError: fewer than `neighbours` other images.
    """
    if not bool(torch.isfinite(features_ND).all()):
        return math.nan
    predictions_N = predict_leave_one_out(
        features_ND, labels_N, neighbours=neighbours, temperature=temperature
    )
    return (predictions_N == labels_N).double().mean().item()


def predict_leave_one_out(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    neighbours: int,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """The label predicted for each image by its nearest others, int64 (N,).

    Raises:
        ValueError: fewer than `neighbours` other images.
    """
    return predict(features_ND, labels_N, None, neighbours=(neighbours,), temperature=temperature)[
        :, 0
    ]


def predict(
    bank_ND: torch.Tensor,
    labels_N: torch.Tensor,
    queries_QD: torch.Tensor | None,
    *,
    neighbours: Sequence[int],
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """The label predicted for each query at each number of neighbours, int64 (Q, J).

    In chunks of queries, on the device of `bank_ND`.

    Args:
        bank_ND, labels_N: images with known labels.
        queries_QD: images to judge; None: those of the bank, each by all the others.
        neighbours: J numbers, in any order.

    Raises:
        ValueError: the bank has fewer (other) images than neighbours are asked for.
    """
    leave_one_out = queries_QD is None
    num_images = bank_ND.shape[0]
    if max(neighbours) > num_images - leave_one_out:
        raise ValueError(f"{max(neighbours)} neighbours asked of {num_images} images")
    bank_ND = normalize(bank_ND.float(), dim=1)
    unit_QD = bank_ND if queries_QD is None else normalize(queries_QD.float(), dim=1)
    chunk = max(1, min(CHUNK_QUERIES, CHUNK_COSINES // num_images))
    predictions = [torch.empty((0, len(neighbours)), dtype=torch.int64, device=bank_ND.device)]
    for start in range(0, len(unit_QD), chunk):
        cosines_QN = unit_QD[start : start + chunk] @ bank_ND.T
        if leave_one_out:
            own_Q = torch.arange(cosines_QN.shape[0], device=bank_ND.device)
            cosines_QN[own_Q, own_Q + start] = -math.inf
        predictions.append(_weighted_votes(cosines_QN, labels_N, neighbours, temperature))
    return torch.cat(predictions)


def _weighted_votes(
    cosines_QN: torch.Tensor, labels_N: torch.Tensor, neighbours: Sequence[int], temperature: float
) -> torch.Tensor:
    nearest_QK, index_QK = cosines_QN.topk(max(neighbours), dim=1)
    # Shifted by the largest: the weights' ratios are what matters, and exp stays in range.
    weights_QK = ((nearest_QK - nearest_QK[:, :1]).double() / temperature).exp()
    labels_QK = labels_N[index_QK]
    votes_QC = weights_QK.new_zeros(len(weights_QK), int(labels_N.max()) + 1)
    found: dict[int, torch.Tensor] = {}
    # One neighbour of each query at a time: sums in a fixed order are the same on every device.
    for rank in range(max(neighbours)):
        votes_QC.scatter_add_(1, labels_QK[:, rank, None], weights_QK[:, rank, None])
        if rank + 1 in neighbours:
            found[rank + 1] = votes_QC.argmax(1)
    return torch.stack([found[number] for number in neighbours], dim=1)
