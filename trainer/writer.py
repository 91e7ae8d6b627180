"""When a checkpoint is due, and saving it with the run's counts; every trainer has one.

`save` waits for all trainers (they gather figures and states); the vote brings them there together.
"""

import time
from collections.abc import Callable

from online_synclr.config import Config
from trainer import checkpoint
from trainer.collectives import broadcast_bytes, gather_bytes
from trainer.distributed import Trainers
from trainer.intake import Intake
from trainer.ledger import TrainerLedger
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
        ledger: TrainerLedger,
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
        self._ledger = ledger
        self._before = restored.totals
        self._saves = saves
        self._say = say
        self._saved_step = self._tried_step = restored.step
        self.knn_before = restored.totals.knn_before

    def is_due(self, step: int) -> bool:
        """Whether `trainer.checkpoint.every_steps` asks for one after `step` steps."""
        every = self._config.trainer.checkpoint.every_steps
        return every > 0 and step % every == 0 and step > self._tried_step

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
        """Save unless this step is saved; False when it could not be written, on every trainer.

        A disk that is full must not end a run of days: it is said once, counted, and tried again
        when the next checkpoint is due, or by a stop. There is none without the ledger of what was
        trained on up to it.
        """
        if step <= self._saved_step:
            return True
        self._tried_step = step
        fault = self._flush_ledgers(step) or self._save_checkpoint(step)
        if fault is None:
            self._saved_step = step
            news = self._saves.on_success(step)
        else:
            news = self._saves.on_failure(step, fault)
        if news is not None:
            self._say(news)
        return fault is None

    def _save_checkpoint(self, step: int) -> str | None:
        """Why trainer 0 could not write it, the same on all; None: it is written.

        All must know: a second try at the same step gathers from everybody.
        """
        merged = self._reporter.collect()
        fault = ""
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
        except OSError as error:
            fault = str(error)
        mine = fault.encode(errors="replace") if self._trainers.is_first else None
        return broadcast_bytes(mine, self._trainers.cpu_group).decode() or None

    def _flush_ledgers(self, step: int) -> str | None:
        """Why a trainer's ledger is not on disk up to `step`, the same on all; None: all are."""
        error = self._ledger.flush(step) or ""
        errors = gather_bytes(error.encode(), self._trainers.cpu_group)
        faults = [f"trainer {index}: {text.decode()}" for index, text in enumerate(errors) if text]
        return f"the ledger is not on disk ({', '.join(faults)})" if faults else None
