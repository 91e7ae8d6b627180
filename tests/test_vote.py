"""The vote: pure decisions, the same decision on all ranks, waits counted by cause."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch.distributed as dist

from online_synclr.monitor.waits import WaitClock
from tests.rank_pool import RankPool
from trainer import agreement
from trainer.agreement import Rounds
from trainer.vote import Action, Ballot, Decision, DivergedError, StopCause, decide, vote


def ready(**changes: object) -> Ballot:
    return Ballot(**{"step": 7, "ready": True, **changes})  # type: ignore[arg-type]


def short(**changes: object) -> Ballot:
    return ready(ready=False, **changes)


def test_all_ready_step() -> None:
    assert decide([ready(), ready()]) == Decision(Action.STEP)


def test_one_short_waits_and_is_named() -> None:
    decision = decide([ready(), short(waited_ms=4500), short(waited_ms=500)])
    assert decision.action is Action.WAIT
    assert decision.missing == (1, 2)
    assert decision.longest_wait_s == 4.5
    assert decision.cause is None


@pytest.mark.parametrize(
    ("ballots", "cause", "by"),
    [
        ([ready(), ready(stop_requested=True)], StopCause.REQUESTED, (1,)),
        ([short(stop_requested=True), short()], StopCause.REQUESTED, (0,)),
        ([ready(), short(exhausted=True)], StopCause.EXHAUSTED, (1,)),
        ([short(failed=True), ready(stop_requested=True)], StopCause.FAILED, (0,)),
        ([short(exhausted=True, stop_requested=True)], StopCause.REQUESTED, (0,)),
    ],
)
def test_reasons_to_stop(ballots: list[Ballot], cause: StopCause, by: tuple[int, ...]) -> None:
    decision = decide(ballots)
    assert (decision.action, decision.cause, decision.by) == (Action.STOP, cause, by)


def test_an_exhausted_trainer_with_groups_left_still_steps() -> None:
    assert decide([ready(exhausted=True), ready()]).action is Action.STEP


@pytest.mark.parametrize("other", [ready(), short(), ready(stop_requested=True)])
def test_a_checkpoint_due_anywhere_is_due_everywhere(other: Ballot) -> None:
    assert decide([ready(checkpoint_due=True), other]).checkpoint


def test_no_checkpoint_with_a_failed_trainer() -> None:
    assert not decide([ready(checkpoint_due=True), short(failed=True)]).checkpoint


def test_different_steps_are_a_fault() -> None:
    with pytest.raises(DivergedError, match=r"\[7, 8\]"):
        decide([ready(), ready(step=8)])


def test_one_trainer_votes_alone() -> None:
    assert vote(ready(), None).action is Action.STEP


# --- three ranks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(3) as pool:
        yield pool


def vote_with(rank_ballots: list[Ballot]) -> Decision:
    return vote(rank_ballots[dist.get_rank()], dist.group.WORLD)


def test_ranks_agree(ranks: RankPool) -> None:
    ballots = [
        ready(checkpoint_due=True),
        short(waited_ms=31_000),
        ready(exhausted=True),
    ]
    decisions = ranks.run(vote_with, ballots)
    assert decisions == [decide(ballots)] * 3
    assert decisions[0].missing == (1,)
    stopping = [ready(), short(failed=True), ready(stop_requested=True)]
    assert ranks.run(vote_with, stopping) == [decide(stopping)] * 3


@dataclass
class FakeIntake:
    """Ready once `rounds` waits have run out; a wait that runs out takes `pause_s`."""

    rounds: int
    pause_s: float = 0.05
    waits: list[float] = field(default_factory=list)
    on_wait: Callable[[float], None] | None = None
    """Called instead of taking any time."""

    def wait_ready(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if len(self.waits) > self.rounds:
            return True
        if self.on_wait is not None:
            self.on_wait(timeout_s)
            return False
        threading.Event().wait(self.pause_s)
        return False


class NoNews:
    """Generators that are all well."""

    def exhausted(self) -> bool:
        return False

    def failed(self) -> bool:
        return False


class Gone(NoNews):
    """Generators of which none is left."""

    def exhausted(self) -> bool:
        return True


class LastGroups(FakeIntake, NoNews):
    """The last groups and their generator's goodbye come while a round waits, after its time."""

    def exhausted(self) -> bool:
        return len(self.waits) > 0


def rounds_of(
    intake: FakeIntake,
    waits: WaitClock,
    group: object,
    generators: NoNews,
    device_busy: Callable[[], bool] = lambda: False,
) -> Rounds:
    return Rounds(
        intake=intake,
        group=group,  # type: ignore[arg-type]
        waits=waits,
        stop_requested=lambda: False,
        generators=generators,
        device_busy=device_busy,
    )


def wait_for_the_late_rank(late: int, rounds: int) -> tuple[list[Action], dict[str, float]]:
    intake = FakeIntake(rounds if dist.get_rank() == late else 0, pause_s=0.2)
    waits = WaitClock()
    mine = rounds_of(intake, waits, dist.group.WORLD, NoNews())
    dist.barrier()
    actions = []
    while not actions or actions[-1] is Action.WAIT:
        actions.append(mine.next(0, checkpoint_due=False).action)
    return actions, waits.seconds()


def test_waiting_is_counted_by_cause_on_every_rank(ranks: RankPool) -> None:
    results = ranks.run(wait_for_the_late_rank, 1, 3)
    for actions, _ in results:
        assert actions == [Action.WAIT] * 3 + [Action.STEP]
    (_, early), (_, late), (_, other) = results
    assert late["groups"] > 0.55
    assert min(early["vote"], other["vote"]) > 0.4
    assert max(early["groups"], other["groups"]) < 0.1


def test_a_round_waits_a_second_at_most_for_groups() -> None:
    intake = FakeIntake(rounds=2)
    mine = rounds_of(intake, WaitClock(), None, NoNews())
    actions = [mine.next(0, checkpoint_due=False).action for _ in range(3)]
    assert actions == [Action.WAIT, Action.WAIT, Action.STEP]
    assert intake.waits == [agreement.PAUSE_S] * 3


def test_being_short_of_groups_counts_only_once_the_device_is_done() -> None:
    now_s = [0.0]
    intake = FakeIntake(rounds=1000, on_wait=lambda timeout_s: now_s.append(now_s[-1] + timeout_s))
    waits = WaitClock(lambda: now_s[-1])
    mine = rounds_of(intake, waits, None, NoNews(), device_busy=lambda: now_s[-1] < 0.4)
    assert mine.next(0, checkpoint_due=False).action is Action.WAIT
    assert now_s[-1] == pytest.approx(agreement.PAUSE_S)
    assert waits.seconds()["groups"] == pytest.approx(agreement.PAUSE_S - 0.4, abs=0.02)


def test_groups_that_come_while_the_device_computes_cost_no_wait() -> None:
    waits = WaitClock()
    mine = rounds_of(FakeIntake(rounds=3, pause_s=0.0), waits, None, NoNews(), lambda: True)
    assert mine.next(0, checkpoint_due=False).action is Action.STEP
    assert "groups" not in waits.seconds()


def test_the_time_without_groups_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    intake = FakeIntake(rounds=2, pause_s=0.0)
    mine = rounds_of(intake, WaitClock(lambda: now[0]), None, NoNews())
    assert mine.next(0, checkpoint_due=False).longest_wait_s == pytest.approx(1.0)
    now[0] += 40.0
    assert mine.next(0, checkpoint_due=False).longest_wait_s == pytest.approx(41.0)
    assert mine.next(0, checkpoint_due=False).longest_wait_s == 0.0


def test_no_generator_left_stops_a_trainer_without_groups() -> None:
    mine = rounds_of(FakeIntake(rounds=1, pause_s=0.0), WaitClock(), None, Gone())
    decision = mine.next(0, checkpoint_due=False)
    assert (decision.action, decision.cause) == (Action.STOP, StopCause.EXHAUSTED)
    assert mine.next(0, checkpoint_due=False).action is Action.STEP


def test_groups_that_came_with_the_goodbye_are_still_trained_on() -> None:
    both = LastGroups(rounds=1, pause_s=0.0)
    mine = rounds_of(both, WaitClock(), None, both)
    assert mine.next(0, checkpoint_due=False).action is Action.WAIT
    assert mine.next(0, checkpoint_due=False).action is Action.STEP
