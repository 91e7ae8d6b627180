"""What a run under attack shows: memory over time, and how soon engines deliver."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil


@dataclass
class MemoryWatch:
    """Resident memory of the processes that stay, over time; each sample by process."""

    find: Callable[[], list[psutil.Process]]
    samples: list[tuple[float, dict[int, int]]] = field(default_factory=list)
    _processes: list[psutil.Process] = field(default_factory=list)

    def step(self, now_s: float) -> None:
        """Take a sample, every two seconds."""
        if self.samples and now_s - self.samples[-1][0] < 2.0:
            return
        self._processes = self._processes or self.find()
        resident = {}
        for process in self._processes:
            with suppress(psutil.Error):
                resident[process.pid] = process.memory_info().rss
        if resident:
            self.samples.append((now_s, resident))

    def growth(self, settled_s: float, window_s: float) -> dict[int, tuple[float, float]]:
        """Bytes after `settled_s` and at the end, medians over a window, by process."""
        if not self.samples:
            return {}
        first_s, last_s = self.samples[0][0] + settled_s, self.samples[-1][0] - window_s
        grown = {}
        for pid in self.samples[0][1]:
            of = [(at_s, seen[pid]) for at_s, seen in self.samples if pid in seen]
            early = [rss for at_s, rss in of if 0 <= at_s - first_s < window_s]
            late = [rss for at_s, rss in of if at_s >= last_s]
            if early and late:
                grown[pid] = (median(early), median(late))
        return grown


@dataclass(frozen=True)
class Starts:
    """Starts of engines, from their logs.

    `ready`: how many came to have their models; `sent_s`: of those that sent a group before they
    were struck, the seconds from there to the first one.
    """

    ready: int
    sent_s: list[float]

    @classmethod
    def read(cls, folder: Path) -> "Starts":
        """From every engine's log below a folder."""
        ready, sent_s = 0, []
        for path in folder.rglob("logs/*.log"):
            text = path.read_text(errors="replace")
            ready += "engine: the models are ready" in text
            found = re.findall(r"first group was sent ([0-9.]+) s after", text)
            sent_s += [float(seconds) for seconds in found]
        return cls(ready, sent_s)
