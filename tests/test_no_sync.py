"""No step makes the host wait for the device.

On CUDA torch itself refuses what synchronises. On a CPU nothing is asynchronous, so the operations
whose result the host must have are refused instead, wherever they come from. Tensors of the host
alone (random parameters of views and masks are drawn there) are told from those on the device by
following what is computed from weights and batch.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.tiny_objective import tiny_config
from tests.tiny_step import tiny_batch, tiny_step
from trainer.distributed import Trainers

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_consecutive.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten.repeat_interleave.Tensor,
}
READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}
"""On a CPU these read memory without an operation."""


class HostWaitsError(AssertionError):
    """The step would have waited for the device."""


class DeviceTaint(TorchDispatchMode):
    """Follows what was computed from the storages it was given; refuses to tell the host of it."""

    def __init__(self, roots: Iterator[torch.Tensor]) -> None:
        super().__init__()
        self._kept = {root.untyped_storage()._cdata: root.untyped_storage() for root in roots}
        self.num_followed = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.knows((args, kwargs)):
            if func in WAITING or _masked_index(func, args):
                raise HostWaitsError(f"{func} of what is on the device")
            for x in tree_flatten(out)[0]:
                if isinstance(x, torch.Tensor):
                    # Kept alive, so that no other tensor takes its place.
                    self._kept[x.untyped_storage()._cdata] = x.untyped_storage()
                    self.num_followed += 1
        return out

    def knows(self, arguments: Any) -> bool:
        """Whether any tensor in them was computed from what is on the device."""
        tensors = [x for x in tree_flatten(arguments)[0] if isinstance(x, torch.Tensor)]
        return any(x.untyped_storage()._cdata in self._kept for x in tensors)


class NoReading(TorchFunctionMode):
    """Refuses to hand over the values of what is on the device."""

    def __init__(self, taint: DeviceTaint) -> None:
        super().__init__()
        self._taint = taint

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in READING and self._taint.knows(args):
            raise HostWaitsError(f"{func} of what is on the device")
        return func(*args, **(kwargs or {}))


def _masked_index(func: Any, args: tuple[Any, ...]) -> bool:
    """x[mask]: how many are chosen is only known on the device."""
    if func not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def device_tensors(step: Any, batch: Any) -> Iterator[torch.Tensor]:
    """Everything that lies on the device before a step."""
    for network in (step.model.student, step.model.teacher):
        yield from network.parameters()
    yield from (batch.images_NCHW, batch.captions_N2, batch.concepts_N2, batch.images_N2)
    yield from (value for value in vars(step.meter).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"optimizer": {"name": "muon"}},
        {"drop_path": 0.5, "recompute_blocks": True},
        {"precision": "bf16", "contrastive": {"negatives": "other_concepts"}},
        {"shuffle_positives": True, "crops": {"globals_per_image": 2}},
    ],
)
def test_no_step_tells_the_host_what_it_computed(trainer: dict[str, Any]) -> None:
    config = tiny_config(**trainer)
    step = tiny_step(config)
    step(tiny_batch(config, 0), 0)
    batch = tiny_batch(config, 1)
    with DeviceTaint(device_tensors(step, batch)) as taint, NoReading(taint):
        step(batch, 1)
        with pytest.raises(HostWaitsError):
            step.meter.read()
    assert taint.num_followed > 1000


@pytest.mark.parametrize(
    "peek",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: (x * 2).nonzero(),
        lambda x: float(x.view(-1)[0]),
        lambda x: (x + 1).tolist(),
        lambda x: x.exp().numpy(),
    ],
)
def test_peeking_is_found(peek: Any) -> None:
    x = torch.randn(4, 4)
    with DeviceTaint(iter((x,))) as taint, NoReading(taint), pytest.raises(HostWaitsError):
        peek(x)
    with DeviceTaint(iter((torch.randn(3),))) as taint, NoReading(taint):
        peek(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("trainer", [{}, {"optimizer": {"name": "muon"}}])
def test_torch_sees_no_synchronisation_on_a_gpu(trainer: dict[str, Any]) -> None:
    config = tiny_config(**trainer)
    device = torch.device("cuda", 0)
    step = tiny_step(config, Trainers(index=0, size=1, device=device))
    for number in range(2):  # kernels load and constants are copied in the first
        step(tiny_batch(config, number, step._trainers), number)
    batch = tiny_batch(config, 2, step._trainers)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
