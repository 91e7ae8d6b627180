"""What is measured while a run goes on, within a share of its time (`monitor.max_probe_share`).

    before a step:  embeddings begins to collect, if that is due and affordable
    after a step:   a slice of the kNN probe under way; a probe that is due begins; what is
                    complete is logged

What is due and affordable follows from settings, the step and the figures last gathered, so that
all trainers do the same at the same step and have the same work. Trainer 0 logs.
"""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.waits import WaitClock
from trainer.agreement import VOTE
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.embedding_probe import EmbeddingProbe
from trainer.objective.model import TeacherOutput
from trainer.probe_budget import DeviceTimer, ProbeBudget
from trainer.shared_knn import SharedKnnProbe

Log = Callable[[int, Mapping[str, float]], None]
"""Takes the step and the figures, by metric."""


class Probes:
    """One trainer's part of all probes.

    Args:
        config: the settings.
        trainers: this trainer among all.
        knn: none without labelled images.
        waits: told of the time that a measurement waits for another trainer to come to it.
        log: on trainer 0, where figures go.
    """

    def __init__(
        self,
        config: Config,
        trainers: Trainers,
        *,
        knn: SharedKnnProbe | None,
        waits: WaitClock,
        log: Log,
    ) -> None:
        self._waits = waits
        self._trainer = config.trainer
        self._knn_every = config.monitor.knn_every_steps
        self._knn = knn
        self._cpu_group = trainers.cpu_group
        self._budget = ProbeBudget(config.monitor.max_probe_share)
        self._embeddings = EmbeddingProbe(config, trainers, self._may_collect)
        self._log = log
        self._knn_timer = DeviceTimer(trainers.device)
        self._embeddings_timer = DeviceTimer(trainers.device)
        self._at_start_s = 0.0
        self._knn_cost_s = self._embeddings_cost_s = 0.0
        self._knn_began_s = 0.0
        self._knn_step = 0

    @property
    def spent_s(self) -> float:
        """This trainer's time for probes since `start`."""
        return self._total_s() - self._at_start_s

    def start(self) -> None:
        """The first step of this attempt begins: the share counts from here."""
        self._at_start_s = self._total_s()

    def note(self, spent_s: float, elapsed_s: float) -> None:
        """Of the trainer where it is most, since the first step; the same call on all trainers."""
        self._budget.note(spent_s, elapsed_s)

    def before_step(self, step: int) -> None:
        """`step` steps are done and the next one is certain."""
        self._embeddings.before_step(step)

    def take(self, teachers: TeacherOutput, batch: Batch) -> None:
        """What the teacher has made of a step's batch."""
        if self._embeddings.collecting:
            with self._embeddings_timer.timing():
                self._embeddings.take(teachers, batch)

    def after_step(self, step: int) -> None:
        """`step` steps are done. Waits for other trainers only where all come at this step."""
        if self._embeddings.is_due(step):
            self._measure_embeddings(step)
        if self._knn is None:
            return
        if self._knn_is_due(step):
            self._await_all()
            self._knn_step, self._knn_began_s = step, self._knn_timer.total_s(wait=True)
            with self._knn_timer.timing():
                self._knn.begin()
        if self._knn.under_way:
            self._advance_knn(step)

    def measure_knn(self, step: int) -> float | None:
        """All of it now, before the first step or after the last; None without labelled images.

        Every trainer calls it and has the result.
        """
        if self._knn is None:
            return None
        self._await_all()
        self._knn_began_s = self._knn_timer.total_s(wait=True)
        with self._knn_timer.timing():
            accuracy = self._knn.measure()
        self._knn_step = step
        self._log_knn(step, accuracy)
        return accuracy

    def _may_collect(self) -> bool:
        return self._budget.allows(self._embeddings_cost_s)

    def _knn_is_due(self, step: int) -> bool:
        """A part's last step has a measurement of its own; one under way is never cut short."""
        assert self._knn is not None
        is_last = step >= self._trainer.part_end(step - 1)
        due = self._knn_every > 0 and step % self._knn_every == 0 and not is_last
        return due and not self._knn.under_way and self._budget.allows(self._knn_cost_s)

    def _advance_knn(self, step: int) -> None:
        assert self._knn is not None
        if self._knn.at_last_slice:
            self._await_all()
        with self._knn_timer.timing():
            accuracy = self._knn.advance()
        if accuracy is not None:
            self._log_knn(step, accuracy)

    def _log_knn(self, step: int, accuracy: float) -> None:
        cost_s = self._knn_timer.total_s(wait=True) - self._knn_began_s
        self._knn_cost_s = self._most(cost_s)
        self._log(
            step,
            {
                metrics.KNN_ACCURACY: accuracy,
                metrics.KNN_STEP: self._knn_step,
                metrics.PROBE_KNN_S: self._knn_cost_s,
            },
        )

    def _measure_embeddings(self, step: int) -> None:
        self._await_all()
        before_s = self._embeddings_timer.total_s(wait=True)
        with self._embeddings_timer.timing():
            figures = self._embeddings.measure()
        cost_s = self._embeddings_timer.total_s(wait=True) - before_s
        self._embeddings_cost_s = self._most(cost_s)
        self._log(step, {**figures, metrics.PROBE_EMBEDDINGS_S: self._embeddings_cost_s})

    def _total_s(self) -> float:
        return self._knn_timer.total_s() + self._embeddings_timer.total_s()

    def _await_all(self) -> None:
        """So that what follows takes the time of its work, not of a trainer that comes late.

        One that draws pictures, say, would be waited for in the next vote otherwise.
        """
        with self._waits.waiting(VOTE):
            self._most(0.0)

    def _most(self, seconds: float) -> float:
        """The largest of all trainers', so that all decide alike."""
        if self._cpu_group is None:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._cpu_group)
        return float(value)
