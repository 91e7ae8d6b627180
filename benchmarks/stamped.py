"""Groups whose content is known on both sides, and a sink that lands and checks them.

Synthetic: no model renders them. Group i is one of a few noise pictures with i written over its
first eight bytes and into its recipe. The receiving process compares both numbers of every group,
and a checksum over all other bytes of every `CHECK_EVERY`th, and stops at the first that differs.
"""

import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import xxhash

from online_synclr.stream.group import Group, Recipe
from trainer.pool import Pool

Shape = tuple[int, int, int, int]

NUM_PICTURES = 64
"""More than may be queued and in flight, so that none is written to while it is still read."""

CHECK_EVERY = 63
"""Not a divisor of the pictures' number, so that each has its turn."""

STAMP_BYTES = 8

WARM_UP_GROUPS = 64
"""Before the clocks start."""


def make_recipe(shape: Shape) -> Recipe:
    return Recipe(
        caption="a red fox in the snow",
        concept="red fox",
        source="bench",
        template="bench",
        background="",
        relation="",
        run_seed=0,
        incarnation=0,
        stream=0,
        counter=0,
        num_images=shape[0],
        llm_fingerprint="bench",
        image_fingerprint="bench",
    )


class StampedGroups:
    """Group after group. At most `NUM_PICTURES` of them exist at the same time."""

    def __init__(self, shape: Shape) -> None:
        self._recipe = make_recipe(shape)
        self._pictures = pictures(shape)
        self._next = 0

    def next(self) -> Group:
        """The next one."""
        images = self._pictures[self._next % NUM_PICTURES]
        images.reshape(-1)[:STAMP_BYTES].view(np.uint64)[0] = self._next
        recipe = msgspec.structs.replace(self._recipe, counter=self._next)
        self._next += 1
        return Group(recipe, images)


class LandingSink:
    """Room for `total` groups, in a trainer's own pool, whose memory was touched before.

    All pixels of every `check_every`th group are compared, and the stamps of all. The clocks start
    after the first `warm_up` groups; `done` is set when the last one is there.
    A full pool evicts, so the groups go round through all of its memory.
    """

    def __init__(
        self,
        shape: Shape,
        total: int,
        *,
        warm_up: int,
        pool_bytes: int,
        check_every: int = CHECK_EVERY,
    ) -> None:
        self.total = total
        self._check_every = check_every
        self.done = threading.Event()
        self.rate_per_s = 0.0
        self.cpu_s_per_group = 0.0
        """Of the thread that receives."""
        self.fault: str | None = None
        self._warm_up = warm_up
        self._received = 0
        self._digests = [_digest(images) for images in pictures(shape)]
        group_bytes = int(np.prod(shape))
        self._pool = Pool(
            max_bytes=pool_bytes, group_bytes=group_bytes, max_reuse=1, seed=0, max_batch=1
        )
        self._pool.arena.memory[:] = 0
        self._started_s = self._cpu_started_s = 0.0

    def credits_to_issue(self, in_flight: int) -> int:
        """Whatever is missing to the total."""
        return self.total - self._received - in_flight

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """In the pool's memory."""
        return self._pool.place(shape)

    def insert(self, group: Group) -> None:
        """Check what landed and keep it."""
        self._check(group)
        self._pool.insert(group, 0.0)
        self._received += 1
        if self._received == self._warm_up:
            self._started_s, self._cpu_started_s = time.perf_counter(), time.thread_time()
        if self._received == self.total:
            timed = self.total - self._warm_up
            self.rate_per_s = timed / (time.perf_counter() - self._started_s)
            self.cpu_s_per_group = (time.thread_time() - self._cpu_started_s) / timed
            self.done.set()

    def reclaim(self, num_credits: int) -> None:
        """The one peer does not die."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """There is always room."""

    def _check(self, group: Group) -> None:
        number = self._received
        stamp = int.from_bytes(group.images_mchw.data.cast("B")[:STAMP_BYTES], "little")
        right = stamp == group.recipe.counter == number
        if right and number % self._check_every == 0:
            right = _digest(group.images_mchw) == self._digests[number % NUM_PICTURES]
        if not right and self.fault is None:
            self.fault = f"group {number} has the stamp {stamp} or other pixels than were sent"
            self.done.set()


def pictures(shape: Shape) -> list[np.ndarray]:
    """The same in every process."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(NUM_PICTURES)]


def _digest(images: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(images.data.cast("B")[STAMP_BYTES:])
