"""Views of pairs, decoded in worker processes or here, in an order that depends on the seed alone.

Training crop k of a run is of the image at place k mod N of the shuffle of its epoch, changed by
random numbers drawn for k: the same whatever the number of ranks, and after a resume.

Shapes: M crops of P x P pixels.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from evaluation.bench import Bench
from evaluation.data_sources.images import open_rgb
from evaluation.errors import EvaluationError
from evaluation.reading import workers_for
from evaluation.segmentation.classes import Classes
from evaluation.segmentation.folder import Pair
from evaluation.segmentation.views import View, random_crop, whole_view


@dataclass(frozen=True)
class Crops:
    """What training crops are cut from, and how. fill: colour of what an image does not reach."""

    pairs: Sequence[Pair]
    classes: Classes
    crop_px: int
    fill: tuple[int, int, int]
    seed: int

    def __getitem__(self, index: int) -> View:
        """Training crop `index` of the run."""
        epoch, place = divmod(index, len(self.pairs))
        pair = self.pairs[_shuffle(len(self.pairs), self.seed, epoch)[place]]
        random = np.random.default_rng([self.seed, 1, index])
        image = open_rgb(pair.image, str(pair.image))
        labels_HW = _labels(pair, self.classes, image.size)
        return random_crop(image, labels_HW, self.crop_px, self.fill, random)


@dataclass(frozen=True)
class Wholes:
    """Validation images as a whole."""

    pairs: Sequence[Pair]
    classes: Classes
    crop_px: int

    def __getitem__(self, index: int) -> View:
        """Image `index`."""
        pair = self.pairs[index]
        image = open_rgb(pair.image, str(pair.image))
        return whole_view(image, _labels(pair, self.classes, image.size), self.crop_px)


def read_crops(
    crops: Crops, steps: range, batch_crops: int, bench: Bench
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's part of each step's batch: uint8 (M, 3, P, P) and int16 (M, P, P).

    Raises:
        EvaluationError: a file cannot be read.
    """
    own = batch_crops // bench.num_ranks
    starts = (step * batch_crops + bench.rank * own for step in steps)
    return _read(crops, [list(range(start, start + own)) for start in starts], bench)


def read_wholes(wholes: Wholes, bench: Bench) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share, every `num_ranks`-th: uint8 (1, 3, H, W) and int16 (1, own H, own W).

    Raises:
        EvaluationError: a file cannot be read.
    """
    indices = range(bench.rank, len(wholes.pairs), bench.num_ranks)
    return _read(wholes, [[index] for index in indices], bench)


def _read(
    source: Crops | Wholes, batches: Sequence[Sequence[int]], bench: Bench
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = DataLoader(
        _Views(source),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers_for(bench.device, bench.cpu_threads),
        collate_fn=_collate,
        pin_memory=bench.device.type == "cuda",
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
        # A generator of its own: else torch's random numbers would depend on who reads images.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, str):
            raise EvaluationError(batch)
        images, labels = batch
        yield images, labels


def _collate(views: Sequence[View | str]) -> tuple[torch.Tensor, torch.Tensor] | str:
    whole = []
    for view in views:
        if isinstance(view, str):
            return view
        whole.append(view)
    images = torch.stack([view.image_3HW for view in whole])
    return images, torch.stack([view.labels_HW for view in whole])


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Views(Dataset[View | str]):
    """An error is handed over as its sentence: raised in a worker it would be a traceback."""

    def __init__(self, source: Crops | Wholes) -> None:
        self._source = source

    def __getitem__(self, index: int) -> View | str:
        try:
            return self._source[index]
        except EvaluationError as error:
            return str(error)


def _labels(pair: Pair, classes: Classes, size: tuple[int, int]) -> np.ndarray:
    labels_HW = classes.read(pair.labels)
    if labels_HW.shape != size[::-1]:
        raise EvaluationError(
            f"{pair.labels} is {labels_HW.shape[1]} x {labels_HW.shape[0]} pixels and its image "
            f"{size[0]} x {size[1]}; make them the same."
        )
    return labels_HW


@lru_cache(maxsize=2)
def _shuffle(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_images)
