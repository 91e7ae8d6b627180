"""Which precision the networks run in.

The losses are float32, but for the products with MIM's prototypes, the largest there are.
"""

from typing import Literal

import torch
from torch import nn

from online_synclr.precision import fast_dtype
from trainer.objective.attention import StepwiseAttention, is_plain

Precision = Literal["auto", "fp32", "bf16"]


def computes_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether forward passes run in bf16; `auto`: where the device multiplies it faster."""
    return precision == "bf16" or (precision == "auto" and fast_dtype(device) is torch.bfloat16)


def network_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What the networks multiply in."""
    return torch.bfloat16 if computes_in_bf16(precision, device) else torch.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of the forward passes."""
    enabled = computes_in_bf16(precision, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which nothing is cast to a lower precision, whatever surrounds it."""
    return torch.autocast(device.type, enabled=False)


def unfuse_slow_attention(network: nn.Module, precision: Precision, device: torch.device) -> None:
    """Compute attention step by step where torch's fused kernel is the slower way.

    On CPUs its backward pass in bf16 takes nearly half of a small ViT's step (torch 2.13; see
    docs/log.md) and eats most of what bf16 wins; the outcome is the same.
    """
    if device.type != "cpu" or not computes_in_bf16(precision, device):
        return
    for module in network.modules():
        if getattr(module, "fused_attn", False) is True:
            module.fused_attn = False  # type: ignore[assignment]
        if is_plain(module):
            module.__class__ = StepwiseAttention


def product_dtype(device: torch.device) -> torch.dtype:
    """What a matrix product on this device runs in here and now: autocast's, or float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32
