"""The memory of a trainer's pool: one block, cut into places of one group each.

    free -> taken: a group lands -> held by the pool, lent to a batch, or both -> free

A place counts who holds it and is free when nobody does, so a group that leaves the pool while a
batch is still made from it is not written over. The operating system gives the memory when it is
first written: a pool that never fills costs what it held at most.
"""

import mmap
from collections.abc import Sequence

import numpy as np

from online_synclr.stream.errors import StreamError


class Arena:
    """`num_places` places of `group_bytes` each; not thread-safe.

    Args:
        num_places: groups that are in memory at most, at the same time.
        group_bytes: of every group's images.

    Raises:
        StreamError: the system does not promise so much memory.
    """

    def __init__(self, *, num_places: int, group_bytes: int) -> None:
        # A mapping of its own begins at a page and is given huge ones, so that the first round
        # through a pool of gigabytes is not a million page faults.
        num_bytes = num_places * group_bytes
        try:
            memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise StreamError(
                f"{num_bytes} bytes for the pool cannot be had ({error.strerror}); lower "
                "pool.max_bytes"
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory = np.frombuffer(memory, dtype=np.uint8)
        """All of it: uint8, flat, writable."""
        self._group_bytes = group_bytes
        self._holders = [0] * num_places
        self._free: list[int] = []
        self._next_fresh = 0

    @property
    def num_held(self) -> int:
        """Places that somebody holds."""
        return self._next_fresh - len(self._free)

    def take(self) -> int:
        """A free place, now held once; one that was used before, if there is one.

        Raises:
            RuntimeError: all are held. Whoever takes has reserved the place before.
        """
        if self._free:
            place = self._free.pop()
        elif self._next_fresh < len(self._holders):
            place = self._next_fresh
            self._next_fresh += 1
        else:
            raise RuntimeError(f"all {len(self._holders)} places of the pool's memory are held")
        self._holders[place] = 1
        return place

    def hold(self, place: int) -> None:
        """One more holder of a place that is held."""
        self._holders[place] += 1

    def drop(self, place: int) -> None:
        """One holder less; without any the place is free and may be written over."""
        self._holders[place] -= 1
        if not self._holders[place]:
            self._free.append(place)

    def images(self, place: int, shape: Sequence[int]) -> np.ndarray:
        """The place as images of `shape`: a view, uint8, contiguous.

        Raises:
            ValueError: images of that shape do not fill a place exactly.
        """
        start = place * self._group_bytes
        return self.memory[start : start + self._group_bytes].reshape(tuple(shape))
