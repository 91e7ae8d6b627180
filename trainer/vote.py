"""The vote of the trainers before each step: step together, wait together, or stop together.

Everything on which ranks could diverge rides on it. No device collective starts without a vote
that says so, so a rank that starves, is told to stop or fails never leaves others inside one.

    own pool -> Ballot -> gather over the CPU group -> decide(ballots) -> Decision, the same on all

A vote waits for the slowest trainer to cast its ballot. Each trainer casts one at least about once
a second while it waits for groups (`Intake.wait_ready` returns after that long), so a vote is
unblocked by the others' next ballot, or by the end of their current step, checkpoint or kNN.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from enum import Enum

import torch
import torch.distributed as dist

PAUSE_S = 1.0
"""Longest wait for groups between two ballots of a rank."""


class Action(Enum):
    """What all trainers do next."""

    STEP = "step"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True)
class Ballot:
    """One trainer's view before a step.

    `step`: the one it is about to take. `exhausted`: no generator that serves it will send again.
    `failed`: its receiver is dead. `waited_ms`: how long it has been without enough groups.
    """

    step: int
    ready: bool
    stop_requested: bool = False
    checkpoint_due: bool = False
    exhausted: bool = False
    failed: bool = False
    waited_ms: int = 0


class StopCause(Enum):
    """Why the trainers stop before the last step."""

    REQUESTED = "stop requested"
    EXHAUSTED = "no generator is left"
    STARVED = "groups were short for too long"
    FAILED = "a trainer failed"


@dataclass(frozen=True)
class Decision:
    """The outcome, equal on every trainer.

    `missing`: trainers without enough groups. `checkpoint`: save before doing anything else.
    `cause` and `by` (the trainers it comes from) are set when the action is STOP.
    `longest_wait_s`: of the missing trainers.
    """

    action: Action
    checkpoint: bool = False
    missing: tuple[int, ...] = ()
    longest_wait_s: float = 0.0
    cause: StopCause | None = None
    by: tuple[int, ...] = ()


class DivergedError(RuntimeError):
    """Trainers are about to take different steps: a fault of the program, never of the input."""


def decide(ballots: Sequence[Ballot]) -> Decision:
    """The decision that follows from everybody's ballots, in trainer order.

    A failure outranks a stop request, which outranks a lack of groups: the strongest reason is the
    one reported. A trainer that is exhausted but ready takes part in the step.

    Raises:
        DivergedError: the ballots are for different steps.
    """
    steps = sorted({ballot.step for ballot in ballots})
    if len(steps) > 1:
        raise DivergedError(f"trainers vote on different steps: {steps}")
    missing = _indices(ballots, lambda ballot: not ballot.ready)
    longest_ms = max((ballots[index].waited_ms for index in missing), default=0)
    cause, by = _reason_to_stop(ballots)
    go_on = Action.WAIT if missing else Action.STEP
    return Decision(
        action=go_on if cause is None else Action.STOP,
        checkpoint=any(ballot.checkpoint_due for ballot in ballots) and not _any_failed(ballots),
        missing=missing,
        longest_wait_s=longest_ms / 1e3,
        cause=cause,
        by=by,
    )


def _reason_to_stop(ballots: Sequence[Ballot]) -> tuple[StopCause | None, tuple[int, ...]]:
    failed = _indices(ballots, lambda ballot: ballot.failed)
    if failed:
        return StopCause.FAILED, failed
    requested = _indices(ballots, lambda ballot: ballot.stop_requested)
    if requested:
        return StopCause.REQUESTED, requested
    exhausted = _indices(ballots, lambda ballot: ballot.exhausted and not ballot.ready)
    return (StopCause.EXHAUSTED, exhausted) if exhausted else (None, ())


def _any_failed(ballots: Sequence[Ballot]) -> bool:
    return any(ballot.failed for ballot in ballots)


def _indices(ballots: Sequence[Ballot], test: Callable[[Ballot], bool]) -> tuple[int, ...]:
    return tuple(index for index, ballot in enumerate(ballots) if test(ballot))


def vote(ballot: Ballot, group: dist.ProcessGroup | None) -> Decision:
    """Cast a ballot and return the common decision.

    Args:
        ballot: This trainer's view.
        group: The trainers' CPU group; None when there is one trainer (no collective).

    Waits for every trainer's ballot; each arrives within about `PAUSE_S` unless its trainer is
    inside a step, a checkpoint or an evaluation.
    """
    if group is None:
        return decide([ballot])
    mine = torch.tensor([int(value) for value in astuple(ballot)], dtype=torch.int64)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, mine, group=group)
    return decide([_ballot_of(row) for row in every])


def _ballot_of(row: torch.Tensor) -> Ballot:
    step, ready, stop, checkpoint, exhausted, failed, waited_ms = row.tolist()
    return Ballot(
        step=step,
        ready=bool(ready),
        stop_requested=bool(stop),
        checkpoint_due=bool(checkpoint),
        exhausted=bool(exhausted),
        failed=bool(failed),
        waited_ms=waited_ms,
    )
