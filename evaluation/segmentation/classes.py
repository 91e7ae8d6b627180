"""Label maps as class indices: which values are classes, which are ignored.

Shapes: H x W pixels, C classes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from evaluation.bench import Bench
from evaluation.data_sources.images import UNREADABLE
from evaluation.errors import EvaluationError
from evaluation.progress import progress

IGNORED = -1
"""Index of pixels that neither train nor count."""
NUM_VALUES = 2**16
"""More than a pixel of a label map can be, in 8 or 16 bits."""
_UNKNOWN = -2


@dataclass(frozen=True)
class Classes:
    """values: the label maps' value of each of the C classes, rising. ignored: the other values."""

    values: tuple[int, ...]
    ignored: tuple[int, ...]

    def read(self, path: Path) -> np.ndarray:
        """A label map as int16 (H, W): class indices, or `IGNORED`.

        Raises:
            EvaluationError: unreadable, not one channel, or with a value that is neither.
        """
        indices_HW = self._table[read_values(path)]
        if (indices_HW == _UNKNOWN).any():
            value = int(read_values(path)[indices_HW == _UNKNOWN][0])
            raise EvaluationError(
                f"{path} has the label {value}, which is none of the {len(self.values)} classes; "
                "raise --num-classes, or give the label to --ignore."
            )
        return indices_HW

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(NUM_VALUES, _UNKNOWN, dtype=np.int16)
        table[list(self.values)] = np.arange(len(self.values))
        table[list(self.ignored)] = IGNORED
        return table


def counted_classes(num_classes: int, ignored: Sequence[int]) -> Classes:
    """The lowest `num_classes` values that are not ignored."""
    values = [value for value in range(num_classes + len(ignored)) if value not in ignored]
    return Classes(tuple(values[:num_classes]), tuple(ignored))


def found_classes(paths: Sequence[Path], ignored: Sequence[int], bench: Bench) -> Classes:
    """Every value in any of the label maps but those ignored; each rank reads its share.

    Raises:
        EvaluationError: fewer than two values, or a map cannot be read.
    """
    present = np.zeros(NUM_VALUES, dtype=bool)
    own = paths[bench.rank :: bench.num_ranks]
    with (
        progress(bench, "label maps read for their classes", len(own)) as done,
        ThreadPoolExecutor(max(bench.cpu_threads, 1)) as threads,
    ):
        for values in threads.map(_distinct, own):
            present[values] = True
            done(1)
    seen = torch.from_numpy(present).int()
    if bench.group is not None:
        dist.all_reduce(seen, op=dist.ReduceOp.MAX, group=bench.group)
    found = [value for value in seen.nonzero()[:, 0].tolist() if value not in ignored]
    if len(found) < 2:
        raise EvaluationError(
            f"the label maps hold {len(found)} classes besides those of --ignore, but two are the "
            "least; name another --data or --ignore."
        )
    return Classes(tuple(found), tuple(ignored))


def read_values(path: Path) -> np.ndarray:
    """A label map's values as they are in the file, (H, W); of a palette the index.

    Raises:
        EvaluationError: unreadable, or not one channel of at most 16 bits.
    """
    try:
        with Image.open(path) as image:
            values_HW = np.asarray(image)
    except UNREADABLE as error:
        raise EvaluationError(
            f"the label map {path} cannot be read ({error}); replace it."
        ) from None
    if values_HW.ndim != 2 or values_HW.min() < 0 or values_HW.max() >= NUM_VALUES:
        raise EvaluationError(
            f"{path} is no label map: it must have one channel of 8 or 16 bits, a class a pixel; "
            "convert it."
        )
    return values_HW.astype(np.uint16)


def _distinct(path: Path) -> np.ndarray:
    return np.unique(read_values(path))
