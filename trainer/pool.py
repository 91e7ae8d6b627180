"""A trainer rank's bounded memory of groups: pure, no threads, no clock.

Least used groups are sampled first, so every group is seen before any is seen again. Ties are
broken at random, not by age: by age, groups that arrived together would meet again in the same
batch at each reuse, and a batch's negatives would repeat. A full pool evicts the most used, oldest
first. What is counted adds up at all times:

    received = trained + evicted unused + left      (trained: used at least once)

The groups lie in one arena. What was sampled is lent until the next sampling: whoever makes a batch
of it, draws it or writes it down reads the pool's own memory, and nothing is written over it before
the loop asks for the next batch, whatever arrives, is used up or is evicted meanwhile.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from online_synclr.stream.group import Group
from trainer.arena import Arena
from trainer.pool_order import PoolOrder


@dataclass(slots=True)
class _Entry:
    group: Group
    place: int
    inserted_at_us: int
    uses: int = 0


class Use(NamedTuple):
    """One use of a group. `number` counts the pool's groups from 0, in the order they came.

    The group's images are lent: they stay as they are until the next sampling.
    """

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
        max_batch: most groups sampled at once; none: as many as are held. So much more memory may
            be in use than `max_bytes`, and one group: the batch that is lent, which may have left
            the pool, and the one that is just landing.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        group_bytes: int,
        max_reuse: int,
        seed: int,
        max_batch: int | None = None,
    ) -> None:
        self.capacity_groups = max_bytes // group_bytes
        self.max_batch = self.capacity_groups if max_batch is None else max_batch
        self.arena = Arena(
            num_places=self.capacity_groups + self.max_batch + 1, group_bytes=group_bytes
        )
        self._landing: int | None = None
        self._landing_mchw: np.ndarray | None = None
        self._lent: list[int] = []
        self.group_bytes = group_bytes
        self.max_reuse = max_reuse
        self._rng = np.random.default_rng(seed)
        self._entries: dict[int, _Entry] = {}
        self._order = PoolOrder(max_reuse, self._rng)
        # Of the groups held; whole microseconds, which add up without rounding for ever.
        self._inserted_at_us = 0
        self._received = 0
        self._trained = 0
        self._group_uses = 0
        self._evicted: Counter[int] = Counter()
        self._left: dict[int, int] = {}

    def __len__(self) -> int:
        """Groups held; each has uses left."""
        return len(self._entries)

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """Memory for the images of the next group inserted; the same until then. uint8, `shape`.

        Raises:
            ValueError: images of that shape have another size than all others.
        """
        if self._landing is None:
            self._landing = self.arena.take()
        if self._landing_mchw is None or self._landing_mchw.shape != tuple(shape):
            self._landing_mchw = self.arena.images(self._landing, shape)
        return self._landing_mchw

    def insert(self, group: Group, now: float) -> None:
        """Take a group in; a full pool evicts one first. Images that are elsewhere are copied.

        Raises:
            ValueError: the group has another size than all others (the receiver checks shapes).
        """
        if group.num_bytes != self.group_bytes:
            raise ValueError(f"group of {group.num_bytes} bytes in a pool of {self.group_bytes}")
        landed, place = self._land(group)
        self.make_room(1)
        entry = self._entries[self._received] = _Entry(landed, place, round(1e6 * now))
        self._inserted_at_us += entry.inserted_at_us
        self._order.add(self._received, uses=0)
        self._received += 1

    def make_room(self, num_groups: int) -> None:
        """Evict, most used and oldest first, until `num_groups` more would fit."""
        while self._entries and len(self._entries) + num_groups > self.capacity_groups:
            self._drop(self._order.evict())

    def can_sample(self, batch: int) -> bool:
        """Whether there are `batch` different groups to sample."""
        return len(self._entries) >= batch

    def sample(self, batch: int) -> list[Use]:
        """`batch` different groups, in random order, lent until the next call.

        Raises:
            ValueError: fewer groups are held, or more are asked for than are ever lent.
        """
        if not self.can_sample(batch):
            raise ValueError(f"{batch} groups asked for, {len(self._entries)} held")
        if batch > self.max_batch:
            raise ValueError(f"{batch} groups asked for, at most {self.max_batch} are lent")
        chosen = self._order.draw(batch)
        self._rng.shuffle(chosen)
        self._lend(chosen)
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
        age_s = held * now - self._inserted_at_us / 1e6
        return PoolCounters(
            received=self._received,
            trained=self._trained,
            group_uses=self._group_uses,
            evicted_unused=self._evicted[self.max_reuse],
            evicted_by_uses_left=dict(self._evicted),
            groups=held,
            left=self._order.unused,
            num_bytes=held * self.group_bytes,
            mean_age_s=age_s / held if held else 0.0,
            mean_uses=self._order.total_uses / held if held else 0.0,
        )

    def _land(self, group: Group) -> tuple[Group, int]:
        """The group in its place of the arena."""
        if group.images_mchw is not self._landing_mchw:
            landed_mchw = self.place(group.images_mchw.shape)
            landed_mchw[:] = group.images_mchw
            group = Group(group.recipe, landed_mchw)
        place, self._landing, self._landing_mchw = self._landing, None, None
        assert place is not None
        return group, place

    def _lend(self, numbers: Sequence[int]) -> None:
        """Hold these groups' places for the caller, and those lent before no more."""
        for place in self._lent:
            self.arena.drop(place)
        self._lent = [self._entries[number].place for number in numbers]
        for place in self._lent:
            self.arena.hold(place)

    def _use(self, number: int) -> Use:
        entry = self._entries[number]
        before = entry.uses
        entry.uses += 1
        self._group_uses += 1
        self._trained += before == 0
        if entry.uses == self.max_reuse:
            self._drop(number)
        else:
            self._order.add(number, entry.uses)
        return Use(entry.group, before, number)

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        self._inserted_at_us -= entry.inserted_at_us
        self.arena.drop(entry.place)
        self._evicted[self.max_reuse - entry.uses] += 1
        if entry.uses:
            self._left[number] = entry.uses
