"""How far a long piece of work is: a bar on a terminal, lines from time to time elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evaluation.bench import Bench
from online_synclr.monitor.formats import duration

LINE_EVERY_S = 15.0


@contextmanager
def progress(bench: Bench, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many more are done; the first rank alone shows it."""
    if not bench.is_first or not total:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield Lines(bench.say, title, total).advance


class Lines:
    """Says how much is done and how long the rest will take, at most every `LINE_EVERY_S`."""

    def __init__(
        self,
        say: Callable[[str], None],
        title: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._title = title
        self._total = total
        self._clock = clock
        self._started_s = self._said_s = clock()
        self._done = 0

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now_s = self._clock()
        if now_s - self._said_s < LINE_EVERY_S or self._done >= self._total:
            return
        self._said_s = now_s
        left_s = (now_s - self._started_s) * (self._total - self._done) / self._done
        self._say(f"{self._title}: {self._done} of {self._total}, {duration(left_s)} left")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
