"""Pool, limiter and credits under one lock: what the receiver fills and the training loop drains.

    receiver thread:  credits_to_issue -> credits -> groups -> insert    (never waits)
    training loop:    wait_ready -> try_sample                           (waits in wait_ready only)

`wait_ready` waits for groups; `insert` unblocks it. Asking for groups waits for sampling to make
room under the limiter; `try_sample` unblocks it by waking the receiver.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from online_synclr.caption_identity import caption_id
from online_synclr.config.schema import Config
from online_synclr.stream.group import Group
from online_synclr.stream.limiter import RateLimiter
from online_synclr.stream.limiter_settings import limiter_of
from trainer.pool import Pool, PoolCounters


@dataclass(frozen=True, slots=True)
class Sampled:
    """One group of a batch. `caption_id`: 16 bytes, the group's class; `number`: the pool's.

    The group's images are lent until the next batch is sampled (`trainer.pool`).
    """

    group: Group
    uses_before: int
    caption_id: bytes
    number: int


@dataclass(frozen=True, slots=True)
class IntakeCounters:
    """Snapshot. Counts are cumulative over resumes; groups, left, bytes, means are of now.

    Identity: received = trained + evicted_unused + left. `left`: held and never used.
    `evicted_by_uses_left` has 0 for groups used up.
    """

    received: int
    trained: int
    group_uses: int
    evicted_by_uses_left: dict[int, int]
    evicted_unused: int
    left: int
    groups: int
    num_bytes: int
    mean_age_s: float
    mean_uses: float
    limiter_error: float
    reuse_in_force: float
    credits_in_flight: int


class IntakeState(TypedDict):
    """What a checkpoint keeps: the cumulative counts. The groups themselves are not saved."""

    received: int
    trained: int
    group_uses: int
    evicted_unused: int
    evicted_by_uses_left: dict[int, int]
    left: int


_NOTHING = IntakeState(
    received=0, trained=0, group_uses=0, evicted_unused=0, evicted_by_uses_left={}, left=0
)


class Intake:
    """A trainer rank's memory of groups, shared by the receiver's thread and the loop.

    Args:
        limiter, pool: owned by the intake from now on; `pool` must have room for
            `limiter.groups_needed()`.
        clock: seconds, monotonic; for the ages.

    Raises:
        LimiterError: the pool is too small for the limiter; names `pool.max_bytes`.
    """

    def __init__(
        self, limiter: RateLimiter, pool: Pool, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limiter.check_capacity(pool.capacity_groups * pool.group_bytes, pool.group_bytes)
        self._limiter = limiter
        self._pool = pool
        self._clock = clock
        self._changed = threading.Condition()
        self._in_flight = 0
        self._closed = False
        self._waiting = False
        self._wake: Callable[[], None] = lambda: None
        self._before = _NOTHING

    @property
    def memory(self) -> np.ndarray:
        """Where all groups are: uint8, flat."""
        return self._pool.arena.memory

    def credits_to_issue(self, in_flight: int) -> int:
        """GroupSink: make room for what is in flight, say how many more may be asked for."""
        with self._changed:
            self._in_flight = in_flight
            self._pool.make_room(in_flight)
            # One batch stays out of reach of credits: issuing must never empty the pool.
            room = self._pool.capacity_groups - self._limiter.batch - in_flight
            return max(0, min(room, self._limiter.inserts_allowed(in_flight)))

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """GroupSink: where the next group's images are to be written, in the pool's own memory."""
        with self._changed:
            return self._pool.place(shape)

    def insert(self, group: Group) -> None:
        """GroupSink: a group asked for arrived. Unblocks `wait_ready`."""
        with self._changed:
            self._in_flight -= 1
            self._pool.insert(group, self._clock())
            if self._waiting:
                self._note_shortage(self._limiter.batch)
            self._limiter.on_insert(self._in_flight)
            if self._ready(self._limiter.batch):
                self._changed.notify_all()

    def reclaim(self, num_credits: int) -> None:
        """GroupSink: groups asked for will not come; others may be asked instead."""
        with self._changed:
            self._in_flight -= num_credits

    def on_room(self, wake: Callable[[], None]) -> None:
        """GroupSink: `wake` is called, outside the lock, after every batch sampled."""
        self._wake = wake

    def try_sample(self, batch: int) -> list[Sampled] | None:
        """`batch` different groups, least used first; None when limiter or pool do not allow it.

        Does not wait. What it gave before may be written over from now on, unless it gave None.
        """
        with self._changed:
            if not self._ready(batch):
                self._note_shortage(batch)
                return None
            chosen = self._pool.sample(batch)
            self._limiter.on_sample(batch)
        self._wake()
        return [
            Sampled(group, uses, caption_id(group.recipe.caption), number)
            for group, uses, number in chosen
        ]

    def take_left(self) -> dict[int, int]:
        """Uses of the used groups that have left the pool since the last call, by number."""
        with self._changed:
            return self._pool.take_left()

    def take_uses(self) -> tuple[dict[int, int], dict[int, int]]:
        """As `take_left`, and the uses so far of the used groups held: at one moment."""
        with self._changed:
            return self._pool.take_left(), self._pool.held_uses()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a local batch can be sampled, at most `timeout_s` seconds.

        Waits for groups; the receiver's `insert` unblocks it, and `close` for good (False).
        """
        batch = self._limiter.batch
        with self._changed:
            if not self._ready(batch):
                self._note_shortage(batch)
            # Each group that comes while the loop waits is one that was short.
            self._waiting = True
            self._changed.wait_for(lambda: self._closed or self._ready(batch), timeout_s)
            self._waiting = False
            return self._ready(batch) and not self._closed

    def close(self) -> None:
        """Unblock whoever waits in `wait_ready`, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def counters(self) -> IntakeCounters:
        """A consistent snapshot."""
        with self._changed:
            now = self._pool.counters(self._clock())
            total = _add(self._before, now)
            return IntakeCounters(
                **total,
                groups=now.groups,
                num_bytes=now.num_bytes,
                mean_age_s=now.mean_age_s,
                mean_uses=now.mean_uses,
                limiter_error=self._limiter.error,
                reuse_in_force=self._limiter.reuse_in_force,
                credits_in_flight=self._in_flight,
            )

    def state_dict(self) -> IntakeState:
        """Cumulative counts, for the checkpoint."""
        with self._changed:
            return _add(self._before, self._pool.counters(self._clock()))

    def load_state_dict(self, state: IntakeState) -> None:
        """Count on from `state`; the limiter's error starts at zero with an empty pool.

        What the saved pool held unused is gone: it counts as evicted unused from here on.
        """
        with self._changed:
            lost = state["left"]
            evicted = Counter({int(k): n for k, n in state["evicted_by_uses_left"].items()})
            evicted[self._pool.max_reuse] += lost
            self._before = IntakeState(
                received=state["received"],
                trained=state["trained"],
                group_uses=state["group_uses"],
                evicted_unused=state["evicted_unused"] + lost,
                evicted_by_uses_left=dict(evicted),
                left=0,
            )

    def _ready(self, batch: int) -> bool:
        return self._limiter.can_sample(batch) and self._pool.can_sample(batch)

    def _note_shortage(self, batch: int) -> None:
        if not self._limiter.can_sample(batch):
            self._limiter.note_shortage()


def build_intake(config: Config, *, local_batch: int, seed: int) -> Intake:
    """The intake of one trainer rank that samples `local_batch` groups a step.

    Raises:
        LimiterError: settings under which training could stop; names the key and the mend.
    """
    limiter = limiter_of(config, local_batch=local_batch)
    pool = Pool(
        max_bytes=config.pool.max_bytes,
        group_bytes=config.group_bytes,
        max_reuse=config.pool.max_reuse,
        seed=seed,
        max_batch=local_batch,
    )
    return Intake(limiter, pool)


def _add(before: IntakeState, now: PoolCounters) -> IntakeState:
    evicted = Counter(before["evicted_by_uses_left"])
    evicted.update(now.evicted_by_uses_left)
    return IntakeState(
        received=before["received"] + now.received,
        trained=before["trained"] + now.trained,
        group_uses=before["group_uses"] + now.group_uses,
        evicted_unused=before["evicted_unused"] + now.evicted_unused,
        evicted_by_uses_left=dict(evicted),
        left=now.left,
    )
