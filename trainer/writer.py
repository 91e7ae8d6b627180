"""When a checkpoint is due, and saving it with the run's counts; every trainer has one.

`save` waits for all trainers (they gather figures and states); the vote brings them there together.
"""

import time
from collections.abc import Callable

from online_synclr.config import Config
from trainer import checkpoint
from trainer.distributed import Trainers
from trainer.intake import Intake
from trainer.report import Merged
from trainer.reporter import Reporter
from trainer.role import TrainerRole
from trainer.save_record import SaveRecord
from trainer.step import TrainStep
from trainer.totals import Totals, add_up


class CheckpointWriter:
    """Saves what `trainer.checkpoint` describes.

    `knn_before` is set by trainer 0 once measured; `saves` counts what could not be written, and
    `say` tells people.
    """

    def __init__(
        self,
        config: Config,
        role: TrainerRole,
        *,
        train: TrainStep,
        intake: Intake,
        trainers: Trainers,
        reporter: Reporter,
        restored: checkpoint.Restored,
        saves: SaveRecord,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._role = role
        self._train = train
        self._intake = intake
        self._trainers = trainers
        self._reporter = reporter
        self._before = restored.totals
        self._saves = saves
        self._say = say
        self._saved_step = restored.step
        self._written = True
        self.knn_before = restored.totals.knn_before

    def is_due(self, step: int) -> bool:
        """Whether `trainer.checkpoint.every_steps` asks for one after `step` steps."""
        every = self._config.trainer.checkpoint.every_steps
        return every > 0 and step % every == 0 and step > self._saved_step

    def totals(self, merged: Merged) -> Totals:
        """The run's counts, with those of earlier attempts."""
        wall_s = time.time() - self._role.launch_time
        return add_up(
            self._before,
            merged,
            wall_s=wall_s,
            knn_before=self.knn_before,
            checkpoints_failed=self._saves.failed,
        )

    def save(self, step: int) -> bool:
        """Save unless this step's turn has been; False when trainer 0 could not write it.

        A disk that is full must not end a run of days: it is said once, counted, and tried again
        when the next checkpoint is due.
        """
        if step <= self._saved_step:
            return self._written
        self._saved_step, self._written = step, True
        merged = self._reporter.collect()
        try:
            checkpoint.save(
                self._role.folder.checkpoints,
                config=self._config,
                step=step,
                train=self._train,
                intake=self._intake,
                trainers=self._trainers,
                totals=self.totals(merged) if self._trainers.is_first else None,
                incarnation=self._role.incarnation,
            )
            news = self._saves.on_success(step)
        except OSError as error:
            news = self._saves.on_failure(step, str(error))
            self._written = False
        if news is not None:
            self._say(news)
        return self._written
