"""Weighted nearest neighbours, each image judged by all the others (leave-one-out).

Shapes: Q queries, N images in the bank, D features, K neighbours, C labels.
"""

import math

import torch
from torch.nn.functional import normalize, one_hot

TEMPERATURE = 0.07
"""Of the neighbours' weights exp(cosine / temperature), after Wu et al., arXiv 1805.01978."""
CHUNK_QUERIES = 1024


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

    label = argmax_c sum over the K nearest others k of [label_k = c] exp(cos(q, k) / temperature)

    Raises:
        ValueError: fewer than `neighbours` other images.
    """
    num_images = features_ND.shape[0]
    if neighbours > num_images - 1:
        raise ValueError(f"{neighbours} neighbours asked of {num_images} images")
    unit_ND = normalize(features_ND.float(), dim=1)
    if queries_Q is None:
        queries_Q = torch.arange(num_images, device=unit_ND.device)
    predictions = []
    for rows_Q in torch.split(queries_Q, CHUNK_QUERIES):
        cosines_QN = unit_ND[rows_Q] @ unit_ND.T
        cosines_QN.scatter_(1, rows_Q[:, None], -math.inf)
        predictions.append(_weighted_vote(cosines_QN, labels_N, neighbours, temperature))
    return torch.cat(predictions)


def _weighted_vote(
    cosines_QN: torch.Tensor, labels_N: torch.Tensor, neighbours: int, temperature: float
) -> torch.Tensor:
    nearest_QK, index_QK = cosines_QN.topk(neighbours, dim=1)
    # Shifted by the largest: the weights' ratios are what matters, and exp stays in range.
    weights_QK = ((nearest_QK - nearest_QK[:, :1]).double() / temperature).exp()
    votes_QKC = one_hot(labels_N[index_QK], int(labels_N.max()) + 1) * weights_QK[..., None]
    return votes_QKC.sum(1).argmax(1)
