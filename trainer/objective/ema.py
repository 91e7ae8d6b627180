"""The teacher follows the student: an exponential moving average in float32."""

import torch
from torch import nn

from trainer.objective.shards import own_parts


class EmaUpdate:
    """Pairs the parameters of teacher and student once, by name.

    The update is elementwise on equal students, so the teachers of all ranks stay identical
    without a collective. Where the networks are sharded, both in the same way, each rank updates
    its own part.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        """Pair the parameters.

        Args:
            teacher: every parameter of it must exist in the student.
            student: not wrapped in DistributedDataParallel.

        Raises:
            ValueError: a parameter of the teacher is missing in the student, or has another shape,
                or is not float32.
        """
        source = dict(student.named_parameters())
        self._teacher: list[torch.Tensor] = []
        self._student: list[torch.Tensor] = []
        for name, parameter in teacher.named_parameters():
            if name not in source or source[name].shape != parameter.shape:
                raise ValueError(f"the student has no parameter like the teacher's {name}")
            if parameter.dtype != torch.float32:
                raise ValueError(f"the teacher's {name} is {parameter.dtype}, not float32")
            self._teacher.append(parameter)
            self._student.append(source[name])

    @torch.no_grad()
    def copy(self) -> None:
        """Set the teacher to the student."""
        torch._foreach_copy_(own_parts(self._teacher), own_parts(self._student))

    @torch.no_grad()
    def step(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; after an optimiser step."""
        torch._foreach_lerp_(own_parts(self._teacher), own_parts(self._student), 1.0 - momentum)
