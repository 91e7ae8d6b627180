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


def num_right(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    neighbours: int,
    queries_Q: torch.Tensor,
) -> torch.Tensor:
    """Of some of the images, how many have the label that their nearest others predict; a scalar.

    Not a number where features are not finite, as in `leave_one_out_accuracy`.

    Raises:
        ValueError: fewer than `neighbours` other images.
    """
    if not bool(torch.isfinite(features_ND).all()):
        return torch.tensor(math.nan, device=features_ND.device)
    predictions_Q = predict_leave_one_out(
        features_ND, labels_N, neighbours=neighbours, queries_Q=queries_Q
    )
    return (predictions_Q == labels_N[queries_Q]).sum()


def predict_leave_one_out(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    neighbours: int,
    temperature: float = TEMPERATURE,
    queries_Q: torch.Tensor | None = None,
) -> torch.Tensor:
    """The label predicted for each image by its nearest others, int64 (N,).

    `queries_Q`: rows of the images to predict, in place of all; then (Q,).

    Raises:
        ValueError: fewer than `neighbours` other images.
    """
    rows_Q = _all_rows(features_ND) if queries_Q is None else queries_Q
    return predict(
        features_ND, labels_N, rows_Q, neighbours=(neighbours,), temperature=temperature
    )[:, 0]


def predict(
    bank_ND: torch.Tensor,
    labels_N: torch.Tensor,
    queries: torch.Tensor,
    *,
    neighbours: Sequence[int],
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """The label predicted for each query at each number of neighbours, int64 (Q, J).

    In chunks of queries, on the device of `bank_ND`.

    Args:
        bank_ND, labels_N: images with known labels.
        queries: features of other images, float (Q, D); or rows of the bank, int64 (Q,), each of
            which is judged by all the others.
        neighbours: J numbers, in any order.

    Raises:
        ValueError: the bank has fewer (other) images than neighbours are asked for.
    """
    leave_one_out = queries.ndim == 1
    num_images = bank_ND.shape[0]
    if max(neighbours) > num_images - leave_one_out:
        raise ValueError(f"{max(neighbours)} neighbours asked of {num_images} images")
    bank_ND = normalize(bank_ND.float(), dim=1)
    predictions = []
    for chunk in torch.split(queries, max(1, min(CHUNK_QUERIES, CHUNK_COSINES // num_images))):
        unit_QD = bank_ND[chunk] if leave_one_out else normalize(chunk.float(), dim=1)
        cosines_QN = unit_QD @ bank_ND.T
        if leave_one_out:
            cosines_QN.scatter_(1, chunk[:, None], -math.inf)
        predictions.append(_weighted_votes(cosines_QN, labels_N, neighbours, temperature))
    return torch.cat(predictions)


def _all_rows(features_ND: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(features_ND), device=features_ND.device)


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
