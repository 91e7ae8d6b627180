"""Limiter and pool together: no reachable state blocks both sides.

Twice: small settings are searched exhaustively (where a bound is broken, the search finds such
states), and the real `Intake` is driven at random with several peers that come and die.
"""

import copy
from collections import Counter, deque

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from online_synclr.stream.credits import CreditBook
from online_synclr.stream.errors import LimiterError
from online_synclr.stream.limiter import RateLimiter
from tests.stream_helpers import make_group
from trainer.intake import Intake
from trainer.pool import Pool

GROUP_BYTES = make_group().num_bytes


class Model:
    """The real limiter with a pool that knows only how many groups have had how many uses."""

    def __init__(self, limiter: RateLimiter, capacity: int) -> None:
        self.limiter = limiter
        self.capacity = capacity
        self.levels = [0] * limiter.max_reuse
        self.in_flight = 0

    def key(self) -> tuple[object, ...]:
        warm = min(self.limiter.inserted, self.limiter.min_groups)
        error, reuse = round(self.limiter.error, 6), round(self.limiter.reuse_in_force, 6)
        return (*self.levels, self.in_flight, warm, error, reuse, self.limiter._short)

    def copy(self) -> "Model":
        other = copy.copy(self)
        other.limiter = copy.copy(self.limiter)
        other.levels = list(self.levels)
        return other

    def allowed(self) -> int:
        room = self.capacity - self.limiter.batch - self.in_flight
        return max(0, min(room, self.limiter.inserts_allowed(self.in_flight)))

    def can_sample(self) -> bool:
        batch = self.limiter.batch
        return self.limiter.can_sample(batch) and sum(self.levels) >= batch

    def issue(self) -> None:
        self.in_flight += 1
        while sum(self.levels) + self.in_flight > self.capacity and any(self.levels):
            most_used = max(level for level, count in enumerate(self.levels) if count)
            self.levels[most_used] -= 1

    def arrive(self) -> None:
        self.in_flight -= 1
        self.levels[0] += 1
        self.limiter.on_insert(self.in_flight)

    def sample(self) -> None:
        wanted = self.limiter.batch
        self.limiter.on_sample(wanted)
        moved = []
        for count in self.levels:
            moved.append(min(wanted, count))
            wanted -= moved[-1]
        for level, count in enumerate(moved):
            self.levels[level] -= count
            if level + 1 < len(self.levels):
                self.levels[level + 1] += count

    def successors(self) -> list["Model"]:
        steps = []
        if self.allowed():
            steps.append(Model.issue)
        if self.in_flight:
            steps += [Model.arrive, lambda model: setattr(model, "in_flight", 0)]
        if self.can_sample():
            steps.append(Model.sample)
        elif self.limiter.adaptive and not self.limiter.can_sample(self.limiter.batch):
            steps.append(lambda model: model.limiter.note_shortage())
        out = []
        for step in steps:
            model = self.copy()
            step(model)
            out.append(model)
        return out


def blocked_states(limiter: RateLimiter, capacity: int, limit: int = 60_000) -> list[Model]:
    """Reachable states in which nothing is on its way and neither side may go on."""
    start = Model(limiter, capacity)
    seen, todo, blocked = {start.key()}, deque([start]), []
    while todo:
        model = todo.popleft()
        if model.in_flight == 0 and not model.allowed() and not model.can_sample():
            blocked.append(model)
        for after in model.successors():
            if (key := after.key()) not in seen and len(seen) < limit:
                seen.add(key)
                todo.append(after)
    assert len(seen) < limit, "not exhaustive: make the settings smaller"
    return blocked


@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize(
    ("reuse", "max_reuse", "batch", "min_groups", "error_buffer"),
    [
        (1.0, 1, 2, 2, 2.0),
        (1.0, 2, 2, 3, 3.0),
        (2.0, 2, 2, 2, 2.0),
        (2.0, 3, 2, 2, 4.0),
        (2.0, 4, 2, 4, 8.0),
        (3.0, 3, 2, 2, 12.0),
        (1.5, 2, 2, 2, 3.0),
        (2.5, 3, 2, 2, 6.0),
        (0.5, 2, 2, 2, 4.0),
        (0.5, 1, 2, 4, 2.0),
        (2.0, 2, 3, 3, 9.0),
    ],
)
def test_no_reachable_state_blocks_both_sides(
    reuse: float, max_reuse: int, batch: int, min_groups: int, error_buffer: float, extra: int
) -> None:
    limiter = RateLimiter(
        samples_per_insert=reuse,
        max_reuse=max_reuse,
        batch=batch,
        min_groups=min_groups,
        error_buffer=error_buffer,
    )
    assert not blocked_states(limiter, limiter.groups_needed() + extra)


def test_the_search_finds_blocks_where_there_are_some() -> None:
    limiter = RateLimiter(
        samples_per_insert=3.0, max_reuse=3, batch=2, min_groups=2, error_buffer=4.0
    )
    # A pool without a place beside one batch, then a range narrower than one step of each side.
    assert blocked_states(limiter, limiter.batch)
    limiter.max_diff = limiter.min_diff + limiter.batch + limiter.samples_per_insert - 2
    assert blocked_states(limiter, limiter.groups_needed())


def test_no_reachable_state_blocks_both_sides_with_adaptive_reuse() -> None:
    limiter = RateLimiter(
        samples_per_insert=1.0,
        max_reuse=2,
        batch=2,
        min_groups=2,
        error_buffer=2.0,
        adaptive=True,
    )
    assert not blocked_states(limiter, limiter.groups_needed())


class IntakeMachine(RuleBasedStateMachine):
    """Peers join, send, die; a loop samples; all in any order."""

    @initialize(
        batch=st.integers(1, 4),
        max_reuse=st.integers(1, 4),
        share=st.floats(0.1, 1.0),
        extra_groups=st.integers(0, 6),
        buffer_batches=st.none() | st.floats(1.0, 8.0),
        extra=st.integers(0, 4),
        adaptive=st.booleans(),
    )
    def build(
        self,
        batch: int,
        max_reuse: int,
        share: float,
        extra_groups: int,
        buffer_batches: float | None,
        extra: int,
        adaptive: bool,
    ) -> None:
        try:
            self.limiter = RateLimiter(
                samples_per_insert=share * max_reuse,
                max_reuse=max_reuse,
                batch=batch,
                min_groups=batch + extra_groups,
                error_buffer=None if buffer_batches is None else buffer_batches * batch,
                adaptive=adaptive,
            )
        except LimiterError:
            assume(False)
        self.capacity = self.limiter.groups_needed() + extra
        self.pool = Pool(
            max_bytes=self.capacity * GROUP_BYTES,
            group_bytes=GROUP_BYTES,
            max_reuse=max_reuse,
            seed=0,
        )
        self.intake = Intake(self.limiter, self.pool, clock=lambda: 0.0)
        self.ledger: CreditBook[int] = CreditBook(4)
        self.on_way: dict[int, list[int]] = {}
        self.sent = 0
        self.uses: Counter[int] = Counter()

    @rule(peer=st.integers(0, 2))
    def join(self, peer: int) -> None:
        if peer not in self.on_way:
            self.ledger.open(peer)
            self.on_way[peer] = []

    @precondition(lambda self: self.on_way)
    @rule()
    def issue(self) -> None:
        while grants := self.ledger.assign(self.intake.credits_to_issue(self.ledger.in_flight)):
            for peer, number in grants.items():
                self.on_way[peer] += range(self.sent, self.sent + number)
                self.sent += number

    @precondition(lambda self: any(self.on_way.values()))
    @rule(data=st.data(), most=st.integers(1, 8))
    def arrive(self, data: st.DataObject, most: int) -> None:
        peer = data.draw(st.sampled_from([p for p, groups in self.on_way.items() if groups]))
        for _ in range(min(most, len(self.on_way[peer]))):
            assert self.ledger.spend(peer, self.ledger.lease_of(peer))
            self.intake.insert(make_group(self.on_way[peer].pop(0)))

    @precondition(lambda self: self.on_way)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.on_way)))
        self.on_way.pop(peer)
        self.intake.reclaim(self.ledger.close(peer))

    @rule(most=st.integers(1, 20))
    def sample(self, most: int) -> None:
        for _ in range(most):
            batch = self.intake.try_sample(self.limiter.batch)
            if batch is None:
                return
            numbers = [sampled.group.recipe.counter for sampled in batch]
            assert len(set(numbers)) == self.limiter.batch
            assert [self.uses[number] for number in numbers] == [s.uses_before for s in batch]
            self.uses.update(numbers)

    @invariant()
    def never_both_blocked(self) -> None:
        if not hasattr(self, "intake") or self.ledger.in_flight:
            return
        ready = self.intake.wait_ready(0.0)
        assert ready or self.intake.credits_to_issue(0) > 0

    @invariant()
    def bounded_and_adding_up(self) -> None:
        if not hasattr(self, "intake"):
            return
        now = self.intake.counters()
        assert now.received == now.trained + now.evicted_unused + now.left
        assert now.credits_in_flight == self.ledger.in_flight
        assert now.groups + now.credits_in_flight <= self.capacity
        assert now.num_bytes <= self.capacity * GROUP_BYTES
        assert max(self.uses.values(), default=0) <= self.limiter.max_reuse
        assert now.group_uses == self.uses.total()
        flying = self.limiter.reuse_in_force * now.credits_in_flight
        assert now.limiter_error + flying <= self.limiter.max_diff + 1e-3
        if now.group_uses:
            assert now.limiter_error >= self.limiter.min_diff - 1e-3


IntakeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestIntakeMachine = IntakeMachine.TestCase
