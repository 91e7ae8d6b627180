"""When gradients are averaged over the trainers: in the last backward pass of a step."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def gradient_sync(student: nn.Module, *, on: bool) -> Iterator[None]:
    """A forward and backward pass of the student; off: its gradients only add up on this rank.

    With it on, what earlier passes have added up is averaged as well. A sharded student averages in
    every pass: to put it off, each trainer would have to hold the gradients of all weights.

    Args:
        student: wrapped, sharded or neither; then it has nothing to average with.
        on: whether this is the step's last backward pass.
    """
    if on or not isinstance(student, DistributedDataParallel):
        yield
        return
    with student.no_sync():
        yield
