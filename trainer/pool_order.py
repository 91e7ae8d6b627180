"""Which group of a pool is sampled next, and which is evicted: pure bookkeeping over numbers.

Groups stand on levels by their uses so far. Sampling draws from the lowest levels, at random within
one; eviction takes the oldest of the highest. A draw, a use and an eviction cost the same however
many groups are held, but for the logarithm of a heap.
"""

import heapq

import numpy as np

_SLACK = 64
"""Entries of a heap that may be of groups that have left, beyond as many as there are groups."""


class _Level:
    """Groups of equally many uses: drawn at random, or taken oldest first."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._position: dict[int, int] = {}
        self._by_age: list[int] = []
        """A heap of numbers, which are in order of age; those that left go when they come up."""

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int) -> None:
        self._position[number] = len(self._numbers)
        self._numbers.append(number)
        heapq.heappush(self._by_age, number)
        if len(self._by_age) > 2 * len(self._numbers) + _SLACK:
            self._by_age = sorted(self._numbers)

    def draw(self, wanted: int, rng: np.random.Generator) -> list[int]:
        """Take out `wanted` of them, every set equally likely."""
        held = len(self._numbers)
        places = rng.integers(np.arange(held, held - wanted, -1)).tolist() if wanted < held else []
        return [self._take(place) for place in places] if places else self._take_all(wanted)

    def take_oldest(self) -> int:
        while (oldest := heapq.heappop(self._by_age)) not in self._position:
            pass
        self._take(self._position[oldest])
        return oldest

    def _take(self, place: int) -> int:
        number, last = self._numbers[place], self._numbers.pop()
        if number != last:
            self._numbers[place] = last
            self._position[last] = place
        del self._position[number]
        return number

    def _take_all(self, wanted: int) -> list[int]:
        if not wanted:
            return []
        taken, self._numbers, self._position, self._by_age = self._numbers, [], {}, []
        return taken


class PoolOrder:
    """Numbers of groups by uses so far, 0 to `num_levels - 1`; a number is higher than all older.

    Args:
        num_levels: uses after which a group is no part of it any more (pool.max_reuse).
        rng: draws among equals.
    """

    def __init__(self, num_levels: int, rng: np.random.Generator) -> None:
        self._levels = [_Level() for _ in range(num_levels)]
        self._rng = rng

    def add(self, number: int, uses: int) -> None:
        """Let a group in that is not there, with its uses so far."""
        self._levels[uses].add(number)

    def draw(self, batch: int) -> list[int]:
        """Take out `batch` groups, least used first, or all; among equals at random."""
        drawn: list[int] = []
        for level in self._levels:
            drawn += level.draw(min(batch - len(drawn), len(level)), self._rng)
            if len(drawn) == batch:
                break
        return drawn

    def evict(self) -> int:
        """Take out the oldest of the most used.

        Raises:
            IndexError: there is none.
        """
        for level in reversed(self._levels):
            if len(level):
                return level.take_oldest()
        raise IndexError("no group to evict")

    @property
    def unused(self) -> int:
        """Groups without a use so far."""
        return len(self._levels[0])

    @property
    def total_uses(self) -> int:
        """Uses so far of all groups in it."""
        return sum(uses * len(level) for uses, level in enumerate(self._levels))
