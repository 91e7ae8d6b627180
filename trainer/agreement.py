"""One round of a trainer: wait for groups, vote, count the time by cause.

    Intake.wait_ready --up to 1 s--> ballot -> vote -> Decision

Waiting for groups is unblocked by the receiver thread, which inserts groups generators send; the
vote by the other trainers (see `trainer.vote`). Time is counted under `groups` while this
trainer's own pool cannot feed a step, under `vote` while only others keep it.
"""

import time
from collections.abc import Callable
from typing import Protocol

import torch.distributed as dist

from online_synclr.monitor.waits import WaitClock
from trainer.vote import PAUSE_S, Ballot, Decision, vote

_BUSY_POLL_S = 0.01

GROUPS = "groups"
VOTE = "vote"


class Readiness(Protocol):
    """The part of the intake that a round needs."""

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a step's groups can be sampled; False when they still cannot."""
        ...


class Generators(Protocol):
    """The part of the generator watch that a round needs."""

    def exhausted(self) -> bool:
        """Whether no generator that serves this trainer will send again."""
        ...

    def failed(self) -> bool:
        """Whether the receiver is dead."""
        ...


class Rounds:
    """Casts this trainer's ballots.

    `stop_requested`, `generators` and `device_busy` (whether queued work is still being computed)
    are asked before each ballot and must not block.
    """

    def __init__(
        self,
        *,
        intake: Readiness,
        group: dist.ProcessGroup | None,
        waits: WaitClock,
        stop_requested: Callable[[], bool],
        generators: Generators,
        device_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._intake = intake
        self._group = group
        self._waits = waits
        self._stop_requested = stop_requested
        self._generators = generators
        self._device_busy = device_busy
        self._short_since: float | None = None

    def next(self, step: int, *, checkpoint_due: bool) -> Decision:
        """Wait up to `PAUSE_S` for groups, then for everybody's ballot; the common decision."""
        # Asked before the wait: the last groups arrive before their generator's goodbye, so what
        # cannot be sampled after the wait will never be. The other way round, groups that came
        # between the two questions would be left untrained.
        exhausted = self._generators.exhausted()
        ready = self._wait_ready()
        ballot = Ballot(
            step=step,
            ready=ready,
            stop_requested=self._stop_requested(),
            checkpoint_due=checkpoint_due,
            exhausted=exhausted,
            failed=self._generators.failed(),
            waited_ms=self._short_for_ms(ready),
        )
        with self._waits.waiting(VOTE if ready else GROUPS):
            return vote(ballot, self._group)

    def _wait_ready(self) -> bool:
        # Steps are queued ahead of the device: while it computes, short of groups costs nothing.
        left_s = PAUSE_S
        while left_s > 0 and self._device_busy():
            if self._intake.wait_ready(_BUSY_POLL_S):
                return True
            left_s -= _BUSY_POLL_S
        with self._waits.waiting(GROUPS):
            return self._intake.wait_ready(max(0.0, left_s))

    def _short_for_ms(self, ready: bool) -> int:
        now_s = time.monotonic()
        if ready:
            self._short_since = None
            return 0
        if self._short_since is None:
            self._short_since = now_s - PAUSE_S
        return int(1000 * (now_s - self._short_since))
