"""What names the features a network computes: a digest over its weights, architecture and input."""

from collections.abc import Iterator, Sequence

import torch
import xxhash
from torch import nn

_NO_PART = frozenset(
    {"training", "fused_attn", "grad_checkpointing", "weight_init_mode", "fix_init"}
)
"""Attributes of timm's modules that say how, not what, is computed, or how it all began."""


def identity_of(
    model: nn.Module, *, mean: Sequence[float], std: Sequence[float], image_px: int
) -> str:
    """Digest of 32 hexadecimal digits.

    Equal for networks with the same modules (classes and plain attributes, so that heads, norms'
    epsilons and pooling count), the same weights and the same input; names and origins do not
    count: a run's teacher and its export are one. Attributes may change with timm's version.
    """
    digest = xxhash.xxh3_128()
    for text in _structure(model):
        digest.update(f"{text}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    digest.update(f"mean {tuple(mean)} std {tuple(std)} px {image_px}".encode())
    return digest.hexdigest()


def _structure(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        attributes = sorted(
            (name, value)
            for name, value in vars(module).items()
            if not name.startswith("_") and name not in _NO_PART and _is_plain(value)
        )
        yield f"{path} {type(module).__name__} {attributes}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
