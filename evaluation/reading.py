"""Images of a split, decoded in worker processes and handed over in batches.

    split[i] -> view -> uint8 batch, labels      in the workers, or here without any

Waits for the workers; they wait for room in torch's queue (two batches each).

Shapes: N images, P pixels a side, C classes.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from evaluation.errors import EvaluationError
from evaluation.splits import LabelledSplit

View = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """images_N3PP: uint8. labels: int64 (N,), or bool (N, C) where images have several classes."""

    images_N3PP: torch.Tensor
    labels: torch.Tensor


def read_batches(
    split: LabelledSplit,
    view: View,
    batches: Sequence[Sequence[int]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches of the images with these indices, in this order.

    Args:
        num_workers: processes that decode; 0: this one.
        pin_memory: page-locked, so that copies to a GPU do not wait.

    Raises:
        EvaluationError: an image cannot be read.
    """
    loader = DataLoader(
        _Views(split, view),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
        # A generator of its own: else torch's random numbers would depend on who reads images.
        generator=torch.Generator(),
    )
    with _ctrl_c_held_back():
        # Worker processes start here, and inherit it.
        loaded = iter(loader)
    for images, labels in loaded:
        if isinstance(images, str):
            raise EvaluationError(images)
        yield Batch(images, labels)


def workers_for(device: torch.device, cpu_threads: int) -> int:
    """Decoding processes of a rank: a GPU leaves all threads to them, a CPU forward pass few."""
    return cpu_threads if device.type == "cuda" else cpu_threads // 4


class _Views(Dataset[tuple[torch.Tensor | str, torch.Tensor]]):
    """An error is handed over as its sentence: raised here it would arrive as a traceback."""

    def __init__(self, split: LabelledSplit, view: View) -> None:
        self._split = split
        self._view = view

    def __getitem__(self, index: int) -> tuple[torch.Tensor | str, torch.Tensor]:
        try:
            image, label = self._split[index]
        except EvaluationError as error:
            return str(error), torch.tensor(0)
        return self._view(image), torch.as_tensor(label)


def _collate(
    views: Sequence[tuple[torch.Tensor | str, torch.Tensor]],
) -> tuple[torch.Tensor | str, torch.Tensor]:
    images = []
    for image, _ in views:
        if isinstance(image, str):
            return image, torch.tensor(0)
        images.append(image)
    return torch.stack(images), torch.stack([label for _, label in views])


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """It reaches every process of a terminal's job; of a worker it would make a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """For workers that are not forked, and inherit nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
