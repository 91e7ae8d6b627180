"""What probes may cost: a share of the run's time, and no more.

    spent so far + what the next one costs <= share * time since the first step

All trainers decide alike, because all know the same figures: those that the trainers last gathered.
A probe that costs more than its share is left out until the run is long enough for it, so its
interval stretches by itself.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class ProbeBudget:
    """A pure decision; `note` is called on all trainers with the same figures."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._spent_s = 0.0
        self._elapsed_s = 0.0

    def note(self, spent_s: float, elapsed_s: float) -> None:
        """What all probes have cost so far, on the trainer where it was most, in so much time."""
        self._spent_s, self._elapsed_s = spent_s, elapsed_s

    def allows(self, cost_s: float) -> bool:
        """Whether a probe that costs about `cost_s` (0: nobody knows yet) may begin."""
        return self._spent_s + cost_s <= self._max_share * self._elapsed_s


class DeviceTimer:
    """Seconds that a device, and on a CPU this thread, spends inside `timing` blocks.

    On a GPU what is queued inside is timed by events, and nothing waits for it.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._device = device
        self._clock = clock
        self._done_s = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count what happens inside."""
        if self._device.type != "cuda":
            began_s = self._clock()
            try:
                yield
            finally:
                self._done_s += self._clock() - began_s
            return
        began, ended = _event(), _event()
        began.record(torch.cuda.current_stream(self._device))
        try:
            yield
        finally:
            ended.record(torch.cuda.current_stream(self._device))
            self._pending.append((began, ended))

    def total_s(self, *, wait: bool = False) -> float:
        """Seconds so far, without what a GPU has not done yet; with `wait`, all of it."""
        if wait and self._pending:
            self._pending[-1][1].synchronize()
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            began, ended = self._pending.pop(0)
            self._done_s += began.elapsed_time(ended) / 1e3
        return self._done_s


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
