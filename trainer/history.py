"""What a run was before this attempt: its checkpoint, its attempts, what it could not write."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from online_synclr.attempts import Attempt, Attempts, note_attempt
from online_synclr.monitor.jsonl import last_step
from trainer.checkpoint import Restored
from trainer.role import TrainerRole
from trainer.save_record import SaveRecord


@dataclass(frozen=True, kw_only=True)
class History:
    """The same on every trainer but for `attempts`, which trainer 0 alone knows."""

    restored: Restored
    attempts: Attempts
    saves: SaveRecord


def look_back(role: TrainerRole, restored: Restored, say: Callable[[str], None]) -> History:
    """Trainer 0 also notes this attempt. To be called before the metrics file is continued: its
    last line tells how far the attempt before had come.
    """
    saves = SaveRecord(restored.totals.checkpoints_failed)
    attempts = _note(role, restored.step, say) if role.is_first else Attempts()
    return History(restored=restored, attempts=attempts, saves=saves)


def _note(role: TrainerRole, start_step: int, say: Callable[[str], None]) -> Attempts:
    attempt = Attempt(
        incarnation=role.incarnation,
        time_s=time.time(),
        start_step=start_step,
        thrown_away_steps=max(0, last_step(role.folder.metrics) - start_step),
        num_trainers=role.num_trainers,
        num_generators=len(role.roster.generators),
    )
    try:
        return note_attempt(role.folder.attempts, attempt)
    except OSError as error:
        say(f"this attempt could not be noted in {role.folder.attempts.name}: {error}")
        return Attempts(incarnation=role.incarnation)
