"""Sampling whose outcome for a row depends on that row alone.

Imported by the engine child only: it needs torch.

V: tokens of the vocabulary; B: rows of a batch.
"""

from collections.abc import Sequence

import torch

_SHORTLIST = 1024


class RowSampler:
    """Draws one token a row and step from the nucleus (top-p) of its distribution.

    Row b's uniform number for step t comes from `seeds[b]` alone, and picks by the inverse of the
    cumulative distribution, largest probability first: the other rows of a batch and their number
    have no influence beyond the rounding of the logits.
    """

    def __init__(
        self, seeds: Sequence[int], *, max_tokens: int, temperature: float, top_p: float
    ) -> None:
        rows = [_uniforms(seed, max_tokens) for seed in seeds]
        self._uniforms_BT = torch.stack(rows)
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, logits_BV: torch.Tensor, step: int) -> torch.Tensor:
        """The chosen token of each row, shape (B,)."""
        if self._temperature == 0.0:
            return logits_BV.argmax(dim=-1)
        probs_BV = torch.softmax(logits_BV.float() / self._temperature, dim=-1)
        uniforms_B = self._uniforms_BT[:, step].to(probs_BV.device)
        return _pick(probs_BV, uniforms_B, self._top_p)


def _uniforms(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _pick(probs_BV: torch.Tensor, uniforms_B: torch.Tensor, top_p: float) -> torch.Tensor:
    # A full sort of the vocabulary costs more than the model's own step on CPU, and the nucleus
    # nearly always lies within a short list; the rows for which it does not are sorted in full.
    kept = min(_SHORTLIST, probs_BV.shape[-1])
    probs_BK, tokens_BK = probs_BV.topk(kept, dim=-1)
    short = probs_BK.double().sum(dim=-1) < top_p
    chosen_B = _inverse_cdf(probs_BK, tokens_BK, uniforms_B, top_p)
    if kept < probs_BV.shape[-1] and bool(short.any()):
        sorted_BV, order_BV = probs_BV[short].sort(dim=-1, descending=True)
        chosen_B[short] = _inverse_cdf(sorted_BV, order_BV, uniforms_B[short], top_p)
    return chosen_B


def _inverse_cdf(
    probs: torch.Tensor, tokens: torch.Tensor, uniforms: torch.Tensor, top_p: float
) -> torch.Tensor:
    cumulative = probs.double().cumsum(dim=-1)
    # The nucleus: the fewest tokens that together reach top_p, the one that crosses it included.
    size = (cumulative < top_p).sum(dim=-1, keepdim=True).clamp(max=probs.shape[-1] - 1)
    mass = cumulative.gather(-1, size)
    place = torch.searchsorted(cumulative, uniforms.unsqueeze(-1) * mass, right=True)
    return tokens.gather(-1, torch.minimum(place, size)).squeeze(-1)
