"""Runs the measuring processes: one generator, then trainers at each split's share of the batch."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_synclr.config import Config
from online_synclr.paths import PROJECT_DIR
from online_synclr.planning.measurement import (
    GeneratorAnswer,
    MeasurementError,
    MeasureSpec,
    TrainerAnswer,
    read_answer,
    shares_of_cores,
)
from online_synclr.planning.rates import GeneratorRate, StepPoint, StepTimes
from online_synclr.topology import Split

_POLL_S = 0.1
_LAST_BYTES = 2000


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measures one configuration on this machine.

    Attributes:
        config: The settings.
        ranks: Of a node; on CPU each gets an equal share of the cores, as in a run.
        num_gpus: Of this machine; 0: on CPU.
        seconds: Of each measurement; warming up comes before it.
        say: Takes a line for people.
    """

    config: Config
    ranks: int
    num_gpus: int
    seconds: float
    say: Callable[[str], None]

    @property
    def cpu_threads(self) -> int:
        """Torch threads of a rank, as in a run."""
        return self.config.run.cpu_threads or max(1, self.num_cores // self.ranks)

    @property
    def num_cores(self) -> int:
        """Cores that this process may use."""
        return len(self._cores())

    def generator(self, num_generators: int) -> GeneratorRate:
        """One generator; `num_generators`: of the split with most of them on a node.

        Raises:
            MeasurementError: it cannot be measured.
        """
        shared = self.config.captions.server == "per_node"
        self.say("measuring one generator")
        spec = self._spec(num_sharing=num_generators if shared else 1)
        answer = GeneratorAnswer(**self._run(spec, "generators.measure", 1)[0])
        return GeneratorRate(
            groups_per_s=answer.groups_per_s,
            render_groups_per_s=answer.render_groups_per_s,
            captions_per_s=answer.captions_per_s,
            shared_llm=shared,
            rss_bytes=answer.rss_bytes,
            gpu_bytes=answer.gpu_bytes,
        )

    def trainers(self, splits: Sequence[Split], *, nodes: int) -> StepTimes:
        """Steps at the local batch of each split, the trainers of a node together if they can be.

        Raises:
            MeasurementError: nothing can be measured, for another reason than memory or with it.
        """
        points: dict[tuple[int, int], StepPoint] = {}
        too_large: list[int] = []
        error: MeasurementError | None = None
        for trainers in sorted({split.trainers for split in splits}):
            local_groups = self.config.trainer.batch_groups // (nodes * trainers)
            together = trainers if self._can_step_together(trainers) else 1
            try:
                point = self._step_point(together, local_groups)
                points[point.num_trainers, point.local_images] = point
            except MeasurementError as problem:
                if not problem.too_large:
                    raise
                too_large.append(local_groups * self.config.images_per_group)
                self.say(str(problem))
                error = problem
        if not points:
            assert error is not None
            raise error
        return StepTimes(list(points.values()), too_large)

    def _can_step_together(self, trainers: int) -> bool:
        return trainers <= (self.num_gpus or self.num_cores)

    def _step_point(self, num_trainers: int, local_groups: int) -> StepPoint:
        who = "one trainer" if num_trainers == 1 else f"{num_trainers} trainers together"
        self.say(f"measuring {who} at {local_groups} groups each")
        spec = self._spec(num_trainers=num_trainers, local_groups=local_groups)
        found = self._run(spec, "trainer.measure", num_trainers)
        answers = [TrainerAnswer(**answer) for answer in found]
        slowest = max(answers, key=lambda answer: answer.step_s)
        return StepPoint(
            num_trainers=num_trainers,
            local_images=local_groups * self.config.images_per_group,
            step_s=slowest.step_s,
            low_s=slowest.low_s,
            high_s=slowest.high_s,
            rss_bytes=max(answer.rss_bytes for answer in answers),
            gpu_bytes=max(answer.gpu_bytes for answer in answers),
        )

    def _spec(self, **values: int) -> MeasureSpec:
        on_gpu = self.num_gpus > 0
        return MeasureSpec(
            config=self.config,
            folder=Path(tempfile.mkdtemp(prefix="online-synclr-plan-")),
            cpu_threads=self.cpu_threads,
            cores=() if on_gpu else shares_of_cores(self._cores(), self.ranks),
            gpus=tuple(range(self.num_gpus)),
            warm_up_s=self.seconds / 3,
            measure_s=self.seconds,
            **values,
        )

    def _run(self, spec: MeasureSpec, module: str, num_processes: int) -> list[dict[str, Any]]:
        """The answers of all processes; their folder is kept where an error refers to it."""
        path = spec.write()
        processes = [
            _start(module, [str(path), str(index)], spec.folder / f"log-{index}")
            for index in range(num_processes)
        ]
        try:
            _wait(processes)
        except BaseException:
            # Ctrl-C: nobody will look at what was left.
            shutil.rmtree(spec.folder, ignore_errors=True)
            raise
        finally:
            for process in processes:
                _end(process)
        answers: list[dict[str, Any]] = []
        errors: list[MeasurementError] = []
        for index, process in enumerate(processes):
            died = _how_it_died(process, spec.folder / f"log-{index}", module)
            try:
                answers.append(read_answer(spec.folder / f"answer-{index}.json", died))
            except MeasurementError as error:
                errors.append(error)
        # Where one failed the others were ended, and have nothing to say.
        errors.sort(key=lambda error: (not error.too_large, str(spec.folder) in str(error)))
        if not errors or str(spec.folder) not in str(errors[0]):
            shutil.rmtree(spec.folder, ignore_errors=True)
        if errors:
            raise errors[0]
        return answers

    def _cores(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))


def _start(module: str, arguments: Sequence[str], log_path: Path) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, [str(PROJECT_DIR), os.environ.get("PYTHONPATH")]))
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Until all are done, or one has failed: the others would wait for it in a collective."""
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) or None not in codes:
            return
        time.sleep(_POLL_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how_it_died(
    process: "subprocess.Popen[bytes]", log_path: Path, module: str
) -> MeasurementError:
    if process.returncode == -signal.SIGKILL:
        words = f"{module} was killed, as the kernel does where memory runs out; see {log_path}."
        return MeasurementError(words, too_large=True)
    text = log_path.read_bytes()[-_LAST_BYTES:].decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else "it said nothing"
    return MeasurementError(
        f"{module} ended with exit code {process.returncode} ({last}); see {log_path}."
    )
