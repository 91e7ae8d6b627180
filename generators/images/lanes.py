"""Lets the ends of one batch run beside the middle of the next, where the device can.

    preparing    text encoder of batch k + 1     (own stream on a GPU)
    main         denoising of batch k            (the current stream)
    finishing    decoder, conversion, copy to the host of batch k - 1     (own stream on a GPU)

Imported by the engine child only: it needs torch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch


class Lanes(Protocol):
    """Where the parts of a batch run."""

    def preparing(self, made: Callable[[], Sequence[torch.Tensor]]) -> AbstractContextManager[None]:
        """Work that needs nothing of the main lane; at its end the main lane waits for it.

        `made`: the tensors that the main lane will use.
        """

    def finishing(self, used: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        """Work on `used`, which the main lane is still to make."""

    def to_host(self, tensors: Sequence[torch.Tensor]) -> "HostCopies":
        """Begin to copy; called inside `finishing`."""


class HostCopies(Protocol):
    """Copies on their way to the host."""

    def done(self) -> bool:
        """Whether they have arrived."""

    def wait(self) -> Sequence[torch.Tensor]:
        """The copies, on the CPU; waits until they have arrived."""


class OneLane:
    """One thing after another: the CPU, and devices without streams."""

    def preparing(self, made: Callable[[], Sequence[torch.Tensor]]) -> AbstractContextManager[None]:
        """See `Lanes.preparing`."""
        return nullcontext()

    def finishing(self, used: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        """See `Lanes.finishing`."""
        return nullcontext()

    def to_host(self, tensors: Sequence[torch.Tensor]) -> "Arrived":
        """See `Lanes.to_host`."""
        return Arrived([tensor.contiguous().cpu() for tensor in tensors])


class Arrived:
    """Copies that are there."""

    def __init__(self, copies: Sequence[torch.Tensor]) -> None:
        self._copies = copies

    def done(self) -> bool:
        """See `HostCopies.done`."""
        return True

    def wait(self) -> Sequence[torch.Tensor]:
        """See `HostCopies.wait`."""
        return self._copies


class CudaLanes:
    """Two streams beside the current one.

    The finishing stream goes first where both have work: its kernels are few, and what it holds
    is memory. Copies go to pinned memory, which torch keeps for later ones once the groups that
    show it are gone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._prepare = torch.cuda.Stream(device)
        self._finish = torch.cuda.Stream(device, priority=-1)

    @contextmanager
    def preparing(self, made: Callable[[], Sequence[torch.Tensor]]) -> Iterator[None]:
        """See `Lanes.preparing`."""
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._prepare):
            yield
        main.wait_stream(self._prepare)
        for tensor in made():
            tensor.record_stream(main)

    @contextmanager
    def finishing(self, used: Sequence[torch.Tensor]) -> Iterator[None]:
        """See `Lanes.finishing`."""
        self._finish.wait_stream(torch.cuda.current_stream(self._device))
        for tensor in used:
            tensor.record_stream(self._finish)
        with torch.cuda.stream(self._finish):
            yield

    def to_host(self, tensors: Sequence[torch.Tensor]) -> "OnTheirWay":
        """See `Lanes.to_host`."""
        copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor.contiguous(), non_blocking=True)
        # Waiting for it shall not keep a CPU core busy: captioner and sender want one.
        arrived = torch.cuda.Event(blocking=True)
        arrived.record(self._finish)
        return OnTheirWay(copies, arrived)


class OnTheirWay:
    """Copies that have arrived once `event` is reached."""

    def __init__(self, copies: Sequence[torch.Tensor], event: torch.cuda.Event) -> None:
        self._copies = copies
        self._event = event

    def done(self) -> bool:
        """See `HostCopies.done`."""
        return self._event.query()

    def wait(self) -> Sequence[torch.Tensor]:
        """See `HostCopies.wait`."""
        self._event.synchronize()
        return self._copies


def lanes_for(device: torch.device) -> Lanes:
    """Streams on CUDA; elsewhere one lane."""
    return CudaLanes(device) if device.type == "cuda" else OneLane()
