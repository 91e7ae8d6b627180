"""One rank of `benchmarks.overlap`: pinned to a core, and the trainer says who works when.

    torchrun --nproc_per_node=2 -m benchmarks.phased_rank --config FILE key=value ...

The command line, the models and the loop are those of a real run. Three kinds of phases take turns,
switched by the trainer between two steps: both work; the generator's engine is stopped (SIGSTOP)
and the trainer works; the trainer only receives, samples and waits, and the generator works.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import psutil

REPEATS: Final = "OVERLAP_REPEATS"
PHASE_S: Final = "OVERLAP_PHASE_S"
PHASES_FILE: Final = "phases.json"
KINDS: Final = ("together", "trainer alone", "generator alone")
IDLE_STEP_S: Final = 0.05
SETTLE_S: Final = 0.5
"""Of each phase, uncounted; what arrives then was begun in the phase before."""
BURST_S: Final = 0.02
LEAST: Final = 3
"""Steps, and bursts of groups, that a phase waits for on a slow machine."""


@dataclass(frozen=True)
class Phase:
    """What was done in one phase, by a side that worked: events a second, and a CPU second."""

    repeat: int
    kind: str
    steps: tuple[float, float] | None
    groups: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Moment:
    """An event: a step that is done, a group that arrived. `cpu_s`: of the process that did it."""

    time_s: float
    cpu_s: float


def schedule(repeats: int) -> list[tuple[int, str]]:
    """(repeat, kind): each repeat has every kind, in an order that moves on by one."""
    return [
        (repeat, KINDS[(repeat + place) % len(KINDS)])
        for repeat in range(repeats)
        for place in range(len(KINDS))
    ]


def burst_ends(moments: Sequence[Moment]) -> list[int]:
    """Places of the last event of each burst but the last: groups rendered together come in one."""
    pairs = enumerate(pairwise(moments))
    return [place for place, (one, other) in pairs if other.time_s - one.time_s > BURST_S]


def rate(moments: Sequence[Moment]) -> tuple[float, float]:
    """Events a second and a CPU second, from the end of the first burst to the last event.

    How long the first was in the making is not known, so that it only marks the beginning.
    """
    first = burst_ends(moments)[0]
    num_after = len(moments) - 1 - first
    lasted_s = moments[-1].time_s - moments[first].time_s
    return num_after / lasted_s, num_after / (moments[-1].cpu_s - moments[first].cpu_s)


class Phases:
    """Switches the phases and notes what is done in each."""

    def __init__(self, run_dir: Path, repeats: int, phase_s: float) -> None:
        self._path = run_dir / PHASES_FILE
        self._phase_s = phase_s
        self._left = schedule(repeats)
        self._done: list[Phase] = []
        self._engine: psutil.Process | None = None
        self._began_s = 0.0
        self._steps: list[Moment] = []
        self._arrivals: list[Moment] = []

    def before_step(self) -> bool:
        """Switch where it is time; whether the trainer is to train. Ends the run after the last."""
        now_s = time.monotonic()
        if self._engine is None:
            self._engine = _find_engine()
            self._begin(now_s)
        elif self._left and self._is_over(now_s):
            self._end()
            if self._left:
                self._begin(now_s)
            else:
                self._finish()
        return bool(self._left) and self._left[0][1] != "generator alone"

    def after_step(self) -> None:
        """A step is done."""
        self._steps.append(Moment(time.monotonic(), time.process_time()))

    def on_group(self) -> None:
        """A group has arrived; in the receiver's thread."""
        if self._engine is not None:
            used = self._engine.cpu_times()
            self._arrivals.append(Moment(time.monotonic(), used.user + used.system))

    def _begin(self, now_s: float) -> None:
        assert self._engine is not None
        stopped = self._left[0][1] == "trainer alone"
        self._engine.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
        self._began_s = now_s
        self._steps, self._arrivals = [], []

    def _settled(self, moments: Sequence[Moment]) -> list[Moment]:
        return [one for one in moments if one.time_s >= self._began_s + SETTLE_S]

    def _is_over(self, now_s: float) -> bool:
        """Whether it has lasted long enough and each side that works has done enough."""
        if now_s < self._began_s + SETTLE_S + self._phase_s:
            return False
        kind = self._left[0][1]
        trained = kind == "generator alone" or len(self._settled(self._steps)) >= LEAST
        ends = burst_ends(self._settled(self._arrivals))
        return trained and (kind == "trainer alone" or len(ends) >= LEAST)

    def _end(self) -> None:
        repeat, kind = self._left.pop(0)
        steps = None if kind == "generator alone" else rate(self._settled(self._steps))
        groups = None if kind == "trainer alone" else rate(self._settled(self._arrivals))
        self._done.append(Phase(repeat, kind, steps, groups))

    def _finish(self) -> None:
        assert self._engine is not None
        self._engine.send_signal(signal.SIGCONT)
        self._path.write_text(json.dumps([asdict(phase) for phase in self._done]))
        os.kill(os.getpid(), signal.SIGTERM)


def _find_engine() -> psutil.Process:
    """The one generator's engine, below the launcher that is this process's parent, too."""
    launcher = psutil.Process(os.getppid())
    for process in launcher.children(recursive=True):
        if "generators.engine" in process.cmdline():
            return process
    raise RuntimeError("the generator's engine was not found")


def pin(core: int) -> None:
    """Keep this process and all that it starts on one of the cores it may use."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


def phased_step(phases: Phases) -> type:
    """`trainer.step.TrainStep`, but for the phases in which the trainer does not train."""
    import torch

    from trainer.batch import Batch
    from trainer.objective.objective import LossParts
    from trainer.objective.schedules import StepSettings, step_settings
    from trainer.step import TrainStep
    from trainer.step_meter import non_finite_flags

    class PhasedStep(TrainStep):
        def __call__(self, batch: Batch, step: int) -> StepSettings:
            if phases.before_step():
                settings = super().__call__(batch, step)
                phases.after_step()
                return settings
            time.sleep(IDLE_STEP_S)
            zero = torch.zeros(())
            shares = {"same_concept_share": zero, "repeated_share": zero}
            parts = LossParts(total=zero, global_=zero, local=zero, mim=zero, metrics=shares)
            self.meter.add(parts, zero, non_finite_flags(parts, zero))
            return step_settings(self._config.trainer, step)

    return PhasedStep


def install(phases: Phases) -> None:
    """Put the phases into the trainer: into its step, and where its groups arrive."""
    import trainer.assembly
    from online_synclr.stream.group import Group
    from trainer.intake import Intake

    insert = Intake.insert

    def noting(intake: Intake, group: Group) -> None:
        phases.on_group()
        insert(intake, group)

    # Where they are looked up, so that nothing else of the trainer has to know of phases.
    vars(trainer.assembly)["TrainStep"] = phased_step(phases)
    Intake.insert = noting  # type: ignore[assignment, method-assign]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; returns its exit code."""
    from online_synclr.__main__ import main as run

    arguments = sys.argv[1:] if arguments is None else arguments
    rank = int(os.environ["RANK"])
    pin(rank)
    if rank == 0:  # torchrun's lowest ranks train
        (run_dir,) = (Path(a.partition("=")[2]) for a in arguments if a.startswith("run.dir="))
        install(Phases(run_dir, int(os.environ[REPEATS]), float(os.environ[PHASE_S])))
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
