"""What the ranks of a probe exchange: sums, and the first one's state. Nothing where there is one.

Tensors are on the bench's device, whose process group carries them.
"""

import torch
import torch.distributed as dist

from evaluation.bench import Bench


def sum_over_ranks(tensor: torch.Tensor, bench: Bench) -> None:
    """In place. Waits for every rank."""
    if bench.group is not None:
        dist.all_reduce(tensor, group=bench.group)


def broadcast_from_first(tensor: torch.Tensor, bench: Bench) -> None:
    """In place: everybody's becomes the first rank's. Waits for every rank."""
    if bench.group is not None:
        dist.broadcast(tensor, group_src=0, group=bench.group)
