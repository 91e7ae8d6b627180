"""Masked tokens against prototypes: features and prototypes are kept, logits only made in chunks.

Shapes: R tokens on this rank, r of them in a chunk, Z features, K prototypes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer.objective.precision import full_precision, product_dtype

CHUNK_LOGITS = 2**25
"""Logits made at once (134 MB of float32); changes memory and speed, not the result."""


@dataclass(frozen=True, slots=True)
class PatchScores:
    """Features of the masked tokens, `features_RZ`, and the prototypes, `prototypes_KZ`."""

    features_RZ: torch.Tensor
    prototypes_KZ: torch.Tensor


class TemperedLogits:
    """s / T of some tokens at a time; the products run in the precision that surrounds it.

    `features_RZ` are divided by T already, so that no chunk has to be; both factors are cast once.
    """

    def __init__(self, scores: PatchScores, temperature: float) -> None:
        dtype = product_dtype(scores.features_RZ.device)
        self.features_RZ = (scores.features_RZ.detach().float() / temperature).to(dtype)
        self.prototypes_KZ = scores.prototypes_KZ.detach().to(dtype)

    def __call__(self, tokens: slice) -> torch.Tensor:
        """float32 (r, K), the caller's to change."""
        with full_precision(self.features_RZ.device):
            return (self.features_RZ[tokens] @ self.prototypes_KZ.t()).float()

    def chunks(self, chunk_logits: int) -> Iterator[slice]:
        """Slices of the tokens with at most so many logits each; one token at least."""
        num_tokens, num_prototypes = self.features_RZ.shape[0], self.prototypes_KZ.shape[0]
        size = max(1, chunk_logits // num_prototypes)
        for start in range(0, num_tokens, size):
            yield slice(start, start + size)
