"""What a measuring process is told, and what it answers: two JSON files.

    plan -> SPEC -> python -m generators.measure SPEC, python -m trainer.measure SPEC RANK -> ANSWER

Each side is measured in processes of its own, one side after the other: neither disturbs the other,
and what the first has taken (GPU memory, threads) is given back before the second begins.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from online_synclr.config.schema import Config


class MeasurementError(RuntimeError):
    """A side cannot be measured; one sentence for people.

    `too_large`: only since memory ran out.
    """

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


@dataclass(frozen=True, kw_only=True)
class MeasureSpec:
    """One measurement.

    Attributes:
        config: The run's settings.
        folder: Of this measurement alone; logs and answers go there.
        cpu_threads: Torch threads of a rank.
        cores: Cores that each process is bound to, by its number; empty: not bound.
        gpus: GPU of each process, by its number; empty: on the CPU.
        warm_up_s: Shortest time before figures count.
        measure_s: Shortest time that they are taken over.
        num_trainers: Trainers that step together.
        local_groups: Groups of a trainer's step.
        num_sharing: Generators of a node that would ask the same caption server.
    """

    config: Config
    folder: Path
    cpu_threads: int
    cores: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[int, ...] = ()
    warm_up_s: float
    measure_s: float
    num_trainers: int = 1
    local_groups: int = 1
    num_sharing: int = 1

    def write(self) -> Path:
        """Write as JSON into its folder; returns the file."""
        path = self.folder / "spec.json"
        path.write_bytes(_SPEC.dump_json(self))
        return path

    @classmethod
    def read(cls, path: Path) -> "MeasureSpec":
        """What `write` wrote."""
        return _SPEC.validate_json(path.read_bytes())

    def gpu_of(self, process: int) -> int | None:
        """GPU of a process; None: the CPU."""
        return self.gpus[process] if self.gpus else None

    def bind(self, process: int) -> None:
        """Keep this process, and those it starts, on the cores of a rank's share."""
        if self.cores:
            os.sched_setaffinity(0, self.cores[process])


@dataclass(frozen=True, kw_only=True)
class GeneratorAnswer:
    """Of one generator, over the measured time; names as in `GeneratorRate`."""

    groups_per_s: float
    render_groups_per_s: float
    captions_per_s: float | None
    rss_bytes: float
    gpu_bytes: float


@dataclass(frozen=True, kw_only=True)
class TrainerAnswer:
    """Of one trainer: median, fastest and slowest part of the measured steps, most memory."""

    step_s: float
    low_s: float
    high_s: float
    num_steps: int
    rss_bytes: float
    gpu_bytes: float


def answer_with(path: Path, measure: Callable[[], GeneratorAnswer | TrainerAnswer]) -> int:
    """Measure and write the answer, or what went wrong; returns the process's exit code."""
    try:
        answer: dict[str, Any] = asdict(measure())
    except MeasurementError as error:
        answer = {"error": str(error), "too_large": error.too_large}
    path.write_text(json.dumps(answer), encoding="utf-8")
    return int("error" in answer)


def read_answer(path: Path, died: MeasurementError) -> dict[str, Any]:
    """What a process answered.

    Raises:
        MeasurementError: it failed; `died` if it wrote nothing.
    """
    try:
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise died from None
    if "error" in answer:
        raise MeasurementError(answer["error"], too_large=answer["too_large"])
    return answer


def shares_of_cores(cores: Sequence[int], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Each rank's cores: equal parts in order; where ranks outnumber them, one core in turn."""
    each = max(1, len(cores) // ranks)
    return tuple(
        tuple(cores[(rank * each + offset) % len(cores)] for offset in range(each))
        for rank in range(ranks)
    )


_SPEC: TypeAdapter[MeasureSpec] = TypeAdapter(MeasureSpec)
