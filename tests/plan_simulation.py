"""Two sides that feed each other, event by event: what the planner's formula is tested against.

Generators render one group after another and hand each over once there is room; trainers take a
batch's uses once they are there, and step. Nothing here knows the formula.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from online_synclr.stream.limiter import RateLimiter


class Gate(Protocol):
    """What lies between the sides."""

    def has_room(self) -> bool: ...

    def insert(self, *, short: bool) -> None: ...

    def ready(self) -> bool: ...

    def sample(self) -> None: ...


class Bucket:
    """Uses in store, at most `capacity`; each group brings `reuse` of them, a batch takes some."""

    def __init__(self, *, batch: int, reuse: float) -> None:
        self._batch, self._reuse = batch, reuse
        self._capacity = 4 * batch + reuse
        self._uses = 0.0

    def has_room(self) -> bool:
        return self._uses + self._reuse <= self._capacity

    def insert(self, *, short: bool) -> None:
        self._uses += self._reuse

    def ready(self) -> bool:
        return self._uses >= self._batch

    def sample(self) -> None:
        self._uses -= self._batch


class RealLimiter:
    """The project's own."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter

    def has_room(self) -> bool:
        return self.limiter.inserts_allowed(0) > 0

    def insert(self, *, short: bool) -> None:
        if short:
            self.limiter.note_shortage()
        self.limiter.on_insert(0)

    def ready(self) -> bool:
        return self.limiter.can_sample(self.limiter.batch)

    def sample(self) -> None:
        self.limiter.on_sample(self.limiter.batch)


@dataclass
class Outcome:
    """Of the second half of the simulated time; waits are shares of it."""

    steps_per_s: float
    groups_per_s: float
    trainer_wait: float
    generator_wait: float


def simulate(gate: Gate, *, step_s: float, group_rates: Sequence[float], num_steps: int) -> Outcome:
    """Until so many steps are done; the first half is a warm-up."""
    events: list[tuple[float, int]] = [
        (1.0 / rate, index) for index, rate in enumerate(group_rates)
    ]
    heapq.heapify(events)
    blocked: dict[int, float] = {}
    waiting_since: float | None = 0.0
    steps = groups = 0
    waits = {"trainer": 0.0, "generator": 0.0}
    begun: tuple[float, int, int] | None = None
    trainer = len(group_rates)
    while True:
        now, who = heapq.heappop(events)
        if who == trainer:
            steps += 1
            waiting_since = now
            if steps == num_steps // 2:
                begun = (now, steps, groups)
                waits = dict.fromkeys(waits, 0.0)
                blocked = dict.fromkeys(blocked, now)
            if steps == num_steps:
                break
        else:
            blocked[who] = now
        # Whatever one side does may free the other.
        moved = True
        while moved:
            moved = False
            for index in list(blocked):
                if gate.has_room():
                    waits["generator"] += now - blocked.pop(index)
                    gate.insert(short=waiting_since is not None and not gate.ready())
                    groups += 1
                    heapq.heappush(events, (now + 1.0 / group_rates[index], index))
                    moved = True
            if waiting_since is not None and gate.ready():
                waits["trainer"] += now - waiting_since
                gate.sample()
                heapq.heappush(events, (now + step_s, trainer))
                waiting_since = None
                moved = True
    assert begun is not None
    elapsed = now - begun[0]
    waits["generator"] += sum(now - since for since in blocked.values())
    return Outcome(
        steps_per_s=(steps - begun[1]) / elapsed,
        groups_per_s=(groups - begun[2]) / elapsed,
        trainer_wait=waits["trainer"] / elapsed,
        generator_wait=waits["generator"] / elapsed / len(group_rates),
    )
