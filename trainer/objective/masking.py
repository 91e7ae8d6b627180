"""Which tokens of which global crops are masked.

The number of masked images and of masked tokens of each is the same on every rank and in every
step, so that ranks do equal work, gathered shapes are equal and nothing has to be counted on the
device.

Shapes: K global crops, T tokens of each, M masked crops, R = M * t masked tokens.
"""

from dataclasses import dataclass

import torch

from online_synclr.config.schema import MimConfig
from trainer.objective.rng import to_device


@dataclass(frozen=True, slots=True)
class Mask:
    """`mask_KT` bool; `index_R` int64, the masked tokens in the flattened (K * T), crop by crop."""

    mask_KT: torch.Tensor
    index_R: torch.Tensor

    def to(self, device: torch.device) -> "Mask":
        """The same mask on `device`, copied without a wait."""
        return Mask(to_device(self.mask_KT, device), to_device(self.index_R, device))


def masked_counts(num_crops: int, num_tokens: int, mim: MimConfig) -> tuple[int, int]:
    """Masked crops and masked tokens of each; at least one of both."""
    crops = min(num_crops, max(1, round(mim.image_share * num_crops)))
    tokens = min(num_tokens, max(1, round(mim.token_share * num_tokens)))
    return crops, tokens


def draw_mask(
    num_crops: int,
    num_tokens: int,
    mim: MimConfig,
    *,
    generator: torch.Generator,
) -> Mask:
    """Draw a mask, on the CPU."""
    num_masked, tokens_each = masked_counts(num_crops, num_tokens, mim)
    crops_M = torch.randperm(num_crops, generator=generator)[:num_masked].sort().values
    order_MT = torch.rand((num_masked, num_tokens), generator=generator).argsort(dim=1)
    tokens_Mt = order_MT[:, :tokens_each].sort(dim=1).values
    index_R = (crops_M[:, None] * num_tokens + tokens_Mt).flatten()
    mask_KT = torch.zeros(num_crops * num_tokens, dtype=torch.bool)
    mask_KT[index_R] = True
    return Mask(mask_KT.view(num_crops, num_tokens), index_R)
