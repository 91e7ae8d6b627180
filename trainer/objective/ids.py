"""Identities as tensors: 128 bits as two int64, compared exactly and counted without a sync.

Shapes: N rows on this rank, M rows of all ranks.
"""

from collections.abc import Sequence

import numpy as np
import torch

ID_BYTES = 16
_MIX = -7046029254386353131  # 2**64 / golden ratio, as int64: spreads one half over all bits


def id_pairs(ids: Sequence[bytes]) -> torch.Tensor:
    """Sixteen-byte identities as int64 (len(ids), 2).

    Raises:
        ValueError: an identity is not 16 bytes long.
    """
    if any(len(value) != ID_BYTES for value in ids):
        raise ValueError(f"an identity must have {ID_BYTES} bytes")
    pairs = np.frombuffer(b"".join(ids), dtype="<i8").reshape(-1, 2)
    return torch.from_numpy(pairs.astype(np.int64))


def image_pairs(num: int, rank: int) -> torch.Tensor:
    """Identities of the N images of a local batch: int64 (N, 2), row index and trainer rank."""
    index_N = torch.arange(num, dtype=torch.int64)
    return torch.stack((index_N, torch.full_like(index_N, rank)), dim=1)


def same(ids_N2: torch.Tensor, others_M2: torch.Tensor) -> torch.Tensor:
    """bool (N, M): which identities are equal."""
    first_NM = ids_N2[:, None, 0] == others_M2[None, :, 0]
    return first_NM.logical_and_(ids_N2[:, None, 1] == others_M2[None, :, 1])


def occurrences(ids_M2: torch.Tensor) -> torch.Tensor:
    """How often each row's identity occurs; int64 (M,).

    For metrics: the halves are folded into 64 bits, and sorting replaces the M x M comparison.
    """
    folded_M = ids_M2[:, 0] ^ (ids_M2[:, 1] * _MIX)
    sorted_M = folded_M.sort().values
    last_M = torch.searchsorted(sorted_M, folded_M, right=True)
    return last_M - torch.searchsorted(sorted_M, folded_M)
