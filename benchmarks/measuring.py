"""What all benchmarks share: cases measured in turn, medians with their spread, the machine.

The machine may be shared and its speed drifts, so only what was measured in turn is compared:
every repeat runs each case once, in an order that moves on by one, and a ratio is taken within
each repeat before its median is.
"""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

REPEATS = 9
"""Fewest repeats behind a figure that is published."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of some values."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def interleave(
    cases: Mapping[str, Callable[[], float]], repeats: int = REPEATS, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measure every case `repeats` times, in turn.

    Args:
        cases: name -> measurement; what it returns (a rate or seconds) is one value.
        repeats: values of each case.
        warm_up: run each case once before, uncounted.

    Returns:
        The values by name; equal positions were taken in the same repeat.
    """
    names = list(cases)
    if warm_up:
        for name in names:
            cases[name]()
    values: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(cases[name]())
    return values


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[float], to: Sequence[float]) -> Spread:
    """values / to, repeat by repeat."""
    return spread([value / base for value, base in zip(values, to, strict=True)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def describe(*packages: str) -> str:
    """One line to stand beside every figure: date, commit, hardware, versions, load, command.

    Args:
        packages: distributions whose versions matter to the figure.
    """
    versions = [f"Python {platform.python_version()}", *map(_version, packages)]
    parts = [f"{datetime.now(UTC):%Y-%m-%d}", f"commit {commit()}", hardware(), *versions]
    return f"{', '.join(parts)}, load {os.getloadavg()[0]:.1f}; {command()}"


def command() -> str:
    """How this benchmark was started."""
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ is not None else sys.argv[0]
    return " ".join(["python -m", name.removesuffix(".__main__"), *sys.argv[1:]])


def commit() -> str:
    """Short hash of the working tree's commit, marked where files were changed since."""
    made = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    out = subprocess.run(made, capture_output=True, text=True, check=False)
    return out.stdout.strip() or "unknown"


def hardware() -> str:
    """Processor and cores this process may use; the first GPU, where torch is loaded and sees one.

    Does not import torch.
    """
    cores = len(os.sched_getaffinity(0))
    name = f"{processor()} x {cores} core{'s' if cores > 1 else ''}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def processor() -> str:
    """Its model's name."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
