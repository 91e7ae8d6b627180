"""Tensors that are spread over the trainers: a trainer's own part, the whole, and back.

Checkpoints and evaluation know whole tensors only: a file is the same whatever `trainer.parallel`
was, and any number of trainers can read it. What is whole already passes through everything here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def own_parts(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The memory that this trainer holds of each tensor, to be read or changed in place.

    Parts are cuts along the first dimension; of a short tensor some are empty.
    """
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def gathered(state: Any, *, keep: bool) -> Any:
    """A tree of dictionaries and lists with the whole of every sharded tensor in it, on the CPU.

    Every trainer calls it with a tree of the same form. Tensors are gathered one after the other:
    on the device there is never more than one whole tensor, and the result is only there where
    `keep` is set; elsewhere a sharded tensor becomes None.
    """
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(state, Mapping):
        return {key: gathered(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value, keep=keep) for value in state]
    return state


def load_weights(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load whole tensors into a network; each trainer takes its own part. Nothing is sent.

    Raises:
        RuntimeError: names or shapes are not the network's.
    """
    like = network.state_dict()
    network.load_state_dict({name: part_of(value, like.get(name)) for name, value in state.items()})


@torch.no_grad()
def part_of(whole: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """This trainer's part of `whole`, cut as `like` is; `whole` itself where that is not cut."""
    if not isinstance(like, DTensor):
        return whole
    # Without a source each trainer cuts what it has itself. A copy: a view would keep the whole.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).clone()
