"""Labelled pictures as batches of uint8 squares, read by processes beside the rank.

    order of an epoch -> positions of a step -> this rank's part -> files -> squares -> batch

Which pictures a step has depends on seed and step alone, whatever the number of ranks, and how each
is cut to a square on seed, epoch and picture: a phase that goes on takes the very same steps.

Shapes: N images of a batch, S pixels a side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from online_synclr.config import ConfigError
from online_synclr.seeds import derive_seed
from trainer.supervised.folder import LabelledFiles


class PictureError(ConfigError):
    """A picture cannot be read; known to the rank alone whose picture it is."""


CENTRE = -1
"""In place of an epoch: the middle of the picture."""


@dataclass(frozen=True)
class LabelledBatch:
    """`images_N3SS`: uint8, on the CPU. `labels_N`: int64."""

    images_N3SS: torch.Tensor
    labels_N: torch.Tensor

    def pin_memory(self) -> "LabelledBatch":
        """In page-locked memory, from which a GPU copies beside its work."""
        return LabelledBatch(self.images_N3SS.pin_memory(), self.labels_N.pin_memory())


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of the pictures is this rank's, and how it reads them.

    `batch_images`: of all ranks. `side`: S.
    """

    rank: int
    num_ranks: int
    batch_images: int
    side: int
    seed: int
    workers: int
    pin_memory: bool = False


def train_batches(
    files: LabelledFiles, share: Share, *, first_step: int, last_step: int
) -> Iterator[LabelledBatch]:
    """This rank's part of the batch of each step from `first_step` on, before `last_step`.

    Raises:
        PictureError: a picture cannot be read.
    """
    keys = _StepKeys(len(files), share, range(first_step, last_step))
    yield from _checked(files, share, keys)


def whole_batches(files: LabelledFiles, share: Share) -> Iterator[LabelledBatch]:
    """Every picture once, cut from the middle; each rank has its own.

    Raises:
        PictureError: a picture cannot be read.
    """
    own = range(share.rank, len(files), share.num_ranks)
    size = max(1, share.batch_images // share.num_ranks)
    keys = [
        [(index, CENTRE) for index in own[start : start + size]]
        for start in range(0, len(own), size)
    ]
    yield from _checked(files, share, keys)


def positions_of(step: int, num_images: int, share: Share) -> list[tuple[int, int]]:
    """(index, epoch) of this rank's pictures of a step; every epoch has each picture once."""
    each = share.batch_images // share.num_ranks
    start = step * share.batch_images + share.rank * each
    places = (divmod(place, num_images) for place in range(start, start + each))
    return [(_order(num_images, share.seed, epoch)[index], epoch) for epoch, index in places]


@lru_cache(maxsize=4)
def _order(num_images: int, seed: int, epoch: int) -> Sequence[int]:
    generator = torch.Generator().manual_seed(derive_seed("labelled order", seed, epoch))
    order: list[int] = torch.randperm(num_images, generator=generator).tolist()
    return order


class _StepKeys:
    """A batch sampler: the keys of each step's pictures."""

    def __init__(self, num_images: int, share: Share, steps: range) -> None:
        self._num_images, self._share, self._steps = num_images, share, steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self._steps:
            yield positions_of(step, self._num_images, self._share)

    def __len__(self) -> int:
        return len(self._steps)


class _Squares(Dataset[tuple[torch.Tensor, int] | str]):
    """Pictures by key (index, epoch); instead of one that cannot be read, a sentence about it.

    An exception would come out of a worker with its traceback as the message.
    """

    def __init__(self, files: LabelledFiles, side: int, seed: int) -> None:
        self._files, self._side, self._seed = files, side, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int] | str:
        index, epoch = key
        path = self._files.paths[index]
        place = (0.5, 0.5)
        if epoch != CENTRE:
            seed = derive_seed("labelled square", self._seed, epoch, index)
            place = tuple(np.random.default_rng(seed).random(2))
        try:
            return load_square(path, self._side, place), self._files.labels[index]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return f"{path} cannot be read ({error}); remove or replace it."


def load_square(path: Path, side: int, place: tuple[float, float]) -> torch.Tensor:
    """One picture, its shorter side resized to S, cut to a square; uint8 (3, S, S).

    Args:
        path: of the file.
        side: S.
        place: where along the rest of width and height the square begins, 0 to 1.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(path) as picture:
        # JPEG alone obeys: it is decoded at the smallest size that is no smaller.
        picture.draft("RGB", (side, side))
        image = picture.convert("RGB")
    scale = side / min(image.size)
    size = tuple(max(side, round(length * scale)) for length in image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    left, top = (round(share * (length - side)) for share, length in zip(place, size, strict=True))
    pixels_HWC = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()


def _checked(
    files: LabelledFiles, share: Share, keys: "_StepKeys | list[list[tuple[int, int]]]"
) -> Iterator[LabelledBatch]:
    loader: DataLoader[LabelledBatch | str] = DataLoader(
        _Squares(files, share.side, share.seed),  # type: ignore[arg-type]
        batch_sampler=keys,
        num_workers=share.workers if len(keys) else 0,
        collate_fn=_collate,
        pin_memory=share.pin_memory,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise PictureError(f"trainer.supervised.folder: {batch}")
        yield batch


def _collate(items: Sequence[tuple[torch.Tensor, int] | str]) -> LabelledBatch | str:
    images, labels = [], []
    for item in items:
        if isinstance(item, str):
            return item
        images.append(item[0])
        labels.append(item[1])
    return LabelledBatch(torch.stack(images), torch.tensor(labels))
