"""Kills and stops generators, one after the other."""

import random
import signal
import time
from collections import Counter
from contextlib import suppress

import psutil

from benchmarks.chaos.job import Job


class Killer:
    """Strikes one process after the other; those stopped go on later, or never."""

    def __init__(self, job: Job, seed: int) -> None:
        self.struck: Counter[str] = Counter()
        self._job = job
        self._random = random.Random(seed)
        self._next_s = time.monotonic() + 15.0
        self._wake: list[tuple[float, psutil.Process]] = []

    def step(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        for due in [item for item in self._wake if item[0] <= now_s]:
            self._wake.remove(due)
            self._signal(due[1], signal.SIGCONT)
        if now_s >= self._next_s:
            self._next_s = now_s + self._random.uniform(2.0, 6.0)
            self._strike(now_s)

    def release(self) -> None:
        """Let all that were stopped go on."""
        for _, process in self._wake:
            self._signal(process, signal.SIGCONT)

    def _strike(self, now_s: float) -> None:
        what = self._random.choices(
            ("engine killed", "engine stopped", "joiner killed", "joiner stopped"), (4, 2, 2, 1)
        )[0]
        of_engines = what.startswith("engine")
        candidates = self._job.engines() if of_engines else self._job.joiners()
        if not candidates:
            return
        victim = self._random.choice(sorted(candidates, key=lambda process: process.pid))
        self.struck[what] += 1
        if what.endswith("killed"):
            self._signal(victim, signal.SIGKILL)
            return
        victims = [victim]
        if not of_engines:
            with suppress(psutil.Error):
                victims += victim.children(recursive=True)
        for process in victims:
            self._signal(process, signal.SIGSTOP)
        # An engine that stays stopped is for its supervisor to find; nobody else watches a joiner.
        if not of_engines or self._random.random() < 0.5:
            until_s = now_s + self._random.uniform(1.0, 12.0)
            self._wake += [(until_s, process) for process in victims]

    def _signal(self, process: psutil.Process, number: int) -> None:
        with suppress(psutil.Error):
            process.send_signal(number)
