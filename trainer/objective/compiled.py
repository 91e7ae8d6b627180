"""`trainer.compile`: torch.compile for the parts of the networks that repeat.

Blocks and heads are compiled, each for itself: one graph serves all blocks, so that compiling takes
the time of one block for each size of crops and network, whatever the depth. What is around them
(patches, positions, masks) and the losses stay eager. Only `forward` is replaced, not the module:
the names in checkpoints stay, and hooks of wrappers run outside the graph.

Shapes: N sequences.
"""

import importlib.util
import os
import shutil

import torch
from timm.layers import DropPath
from torch import nn


class SharedDropPath(nn.Module):
    """timm's DropPath with the probability as data; a constant would need a graph a block."""

    keep: torch.Tensor

    def __init__(self, drop_prob: float, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1.0 - drop_prob, device=device), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero for some of the N samples in training, the others scaled up; else `x` itself."""
        if not self.training:
            return x
        draws_N = torch.rand(x.shape[0], device=x.device)
        factors_N = (draws_N < self.keep).to(x.dtype) / self.keep.to(x.dtype)
        return x * factors_N.view(-1, *[1] * (x.dim() - 1))


def compile_networks(*networks: nn.Module, backend: str = "inductor") -> None:
    """Compile blocks and heads of student and teacher in place, at their first call.

    Args:
        networks: `Student` and `Teacher`, on their device.
        backend: of torch.compile.

    Raises:
        ValueError: the machine lacks what compiling needs.
    """
    if backend == "inductor":
        check_compiler(next(networks[0].parameters()).device)
    for network in networks:
        _share_drop_paths(network)
        for part in _parts(network):
            # Sizes are few and fixed: graphs for any size would be slower.
            part.forward = torch.compile(part.forward, dynamic=False, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Refuse a machine on which torch.compile would fail at the first step.

    Raises:
        ValueError: names what is missing.
    """
    missing = []
    if not any(shutil.which(name) for name in _compilers(device)):
        missing.append("a C++ compiler (g++)")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("triton")
    if missing:
        raise ValueError(
            f"trainer.compile needs {' and '.join(missing)}; install what is missing or set "
            "trainer.compile=false"
        )


def _compilers(device: torch.device) -> tuple[str, ...]:
    if device.type == "cuda":  # triton's launchers are plain C
        return (os.environ.get("CC", "cc"), "gcc", "clang")
    return (os.environ.get("CXX", "g++"), "g++", "clang++")


def _parts(network: nn.Module) -> list[nn.Module]:
    heads = [module for name, module in network.named_children() if name != "backbone"]
    blocks = network.get_submodule("backbone.vit.blocks").children()
    return [*blocks, *(head for head in heads if not isinstance(head, nn.Identity))]


def _share_drop_paths(network: nn.Module) -> None:
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, DropPath):
                device = next(network.parameters()).device
                setattr(module, name, SharedDropPath(child.drop_prob, device).train(child.training))
