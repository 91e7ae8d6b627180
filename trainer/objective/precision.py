"""Which precision the networks run in; the losses are float32 throughout."""

from typing import Literal

import torch


def autocast(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.autocast:
    """The context of the forward passes.

    `auto` takes bf16 where the GPU computes in it (compute capability 8.0 and later) and float32
    elsewhere: bf16 is emulated on older GPUs and on many CPUs slower than float32.
    """
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    enabled = precision == "bf16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which nothing is cast to a lower precision, whatever surrounds it."""
    return torch.autocast(device.type, enabled=False)
