"""A trainer rank's bounded memory of groups: pure, no threads, no clock.

Least used groups are sampled first, so every group is seen before any is seen again. Ties are
broken at random, not by age: by age, groups that arrived together would meet again in the same
batch at each reuse, and a batch's negatives would repeat. A full pool evicts the most used, oldest
first. What is counted adds up at all times:

    received = trained + evicted unused + left      (trained: used at least once)
"""

import bisect
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from online_synclr.stream.group import Group


@dataclass(slots=True)
class _Entry:
    group: Group
    inserted_at: float
    uses: int = 0


class Use(NamedTuple):
    """One use of a group. `number` counts the pool's groups from 0, in the order they came."""

    group: Group
    uses_before: int
    number: int


@dataclass(frozen=True, slots=True)
class PoolCounters:
    """Cumulative, but for `groups`, `left`, `num_bytes` and the means, which are of now.

    `left`: groups held that were never used. `evicted_by_uses_left` has 0 for those used up.
    `mean_age_s` and `mean_uses` are over the groups held, 0.0 when there are none.
    """

    received: int
    trained: int
    group_uses: int
    evicted_unused: int
    evicted_by_uses_left: dict[int, int]
    groups: int
    left: int
    num_bytes: int
    mean_age_s: float
    mean_uses: float


class Pool:
    """Groups of one size, bounded in bytes, each used at most `max_reuse` times.

    Args:
        max_bytes: bound on the groups held and those on their way.
        group_bytes: bytes of every group's images.
        max_reuse: uses after which a group leaves.
        seed: of the random tie-breaking.
    """

    def __init__(self, *, max_bytes: int, group_bytes: int, max_reuse: int, seed: int) -> None:
        self.capacity_groups = max_bytes // group_bytes
        self.group_bytes = group_bytes
        self.max_reuse = max_reuse
        self._rng = np.random.default_rng(seed)
        self._entries: dict[int, _Entry] = {}
        # Entry numbers by uses so far, each list in order of age.
        self._levels: list[list[int]] = [[] for _ in range(max_reuse)]
        self._received = 0
        self._trained = 0
        self._group_uses = 0
        self._evicted: Counter[int] = Counter()
        self._left: dict[int, int] = {}

    def __len__(self) -> int:
        """Groups held; each has uses left."""
        return len(self._entries)

    def insert(self, group: Group, now: float) -> None:
        """Take a group in; a full pool evicts one first.

        Raises:
            ValueError: the group has another size than all others (the receiver checks shapes).
        """
        if group.num_bytes != self.group_bytes:
            raise ValueError(f"group of {group.num_bytes} bytes in a pool of {self.group_bytes}")
        self.make_room(1)
        self._entries[self._received] = _Entry(group, now)
        self._levels[0].append(self._received)
        self._received += 1

    def make_room(self, num_groups: int) -> None:
        """Evict, most used and oldest first, until `num_groups` more would fit."""
        while self._entries and len(self._entries) + num_groups > self.capacity_groups:
            self._evict_one()

    def can_sample(self, batch: int) -> bool:
        """Whether there are `batch` different groups to sample."""
        return len(self._entries) >= batch

    def sample(self, batch: int) -> list[Use]:
        """`batch` different groups, in random order.

        Raises:
            ValueError: fewer groups are held.
        """
        if not self.can_sample(batch):
            raise ValueError(f"{batch} groups asked for, {len(self._entries)} held")
        chosen = self._choose(batch)
        self._rng.shuffle(chosen)
        return [self._use(number) for number in chosen]

    def take_left(self) -> dict[int, int]:
        """Uses of the used groups that have left since the last call, by number."""
        left, self._left = self._left, {}
        return left

    def held_uses(self) -> dict[int, int]:
        """Uses so far of the used groups that are held, by number."""
        return {number: entry.uses for number, entry in self._entries.items() if entry.uses}

    def counters(self, now: float) -> PoolCounters:
        """A snapshot; `now` is on the clock of `insert`."""
        held = len(self._entries)
        age_s = sum(now - entry.inserted_at for entry in self._entries.values())
        uses = sum(level * len(numbers) for level, numbers in enumerate(self._levels))
        return PoolCounters(
            received=self._received,
            trained=self._trained,
            group_uses=self._group_uses,
            evicted_unused=self._evicted[self.max_reuse],
            evicted_by_uses_left=dict(self._evicted),
            groups=held,
            left=len(self._levels[0]),
            num_bytes=held * self.group_bytes,
            mean_age_s=age_s / held if held else 0.0,
            mean_uses=uses / held if held else 0.0,
        )

    def _choose(self, batch: int) -> list[int]:
        chosen: list[int] = []
        for level in self._levels:
            wanted = min(batch - len(chosen), len(level))
            if wanted == len(level):
                chosen.extend(level)
            else:
                picks = self._rng.choice(len(level), size=wanted, replace=False)
                chosen.extend(level[pick] for pick in picks)
        return chosen

    def _use(self, number: int) -> Use:
        entry = self._entries[number]
        before = entry.uses
        entry.uses += 1
        self._group_uses += 1
        self._trained += before == 0
        self._leave_level(number, before)
        if entry.uses == self.max_reuse:
            self._drop(number)
        else:
            bisect.insort(self._levels[entry.uses], number)
        return Use(entry.group, before, number)

    def _leave_level(self, number: int, uses: int) -> None:
        level = self._levels[uses]
        del level[bisect.bisect_left(level, number)]

    def _evict_one(self) -> None:
        level = next(level for level in reversed(self._levels) if level)
        self._drop(level.pop(0))

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        self._evicted[self.max_reuse - entry.uses] += 1
        if entry.uses:
            self._left[number] = entry.uses
