"""What the losses need from the other trainers; every collective of the objective is here.

All trainers call each function in the same order with tensors of the same shape. Without a process
group there is one trainer, and nothing is sent.
"""

import torch
import torch.distributed as dist


class Trainers:
    """The trainers' process group, or none."""

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self._group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    @torch.no_grad()
    def gather(self, local: torch.Tensor) -> torch.Tensor:
        """Rows of all trainers, (size * N, ...) from (N, ...), rank by rank, without gradient."""
        if self._group is None:
            return local.detach()
        local = local.detach().contiguous()
        parts = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(parts, local, group=self._group)
        return torch.cat(parts)

    @torch.no_grad()
    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the trainers, in place."""
        if self._group is not None:
            dist.all_reduce(values, group=self._group)
        return values

    @torch.no_grad()
    def max_(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over the trainers, in place."""
        if self._group is not None:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group)
        return values
