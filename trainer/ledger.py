"""What the training loop tells the ledger: each group at its first use, and how often it was used.

    sampled, those that left the pool --loop--> entries and use counts -> online_synclr.ledger

Before each checkpoint the uses so far of all groups held are entered too: if the run is continued
from it, its training up to there is then described to the last use.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from online_synclr.config import Config, ConfigError
from online_synclr.ledger.durable_file import DurableFile
from online_synclr.ledger.facts import Header, file_name
from online_synclr.ledger.writer import LedgerCounters, LedgerWriter
from trainer.intake import Sampled
from trainer.role import TrainerRole


class UseSource(Protocol):
    """The part of the intake that the ledger needs; groups go by the pool's numbers."""

    def take_left(self) -> dict[int, int]:
        """Uses of the groups that have left the pool since the last call."""
        ...

    def take_uses(self) -> tuple[dict[int, int], dict[int, int]]:
        """The same, and the uses so far of those held."""
        ...


class TrainerLedger:
    """One trainer's part of the ledger. `clock`: unix time, seconds."""

    def __init__(
        self, writer: LedgerWriter, uses: UseSource, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._writer = writer
        self._uses = uses
        self._clock = clock
        # Entries of the groups in the pool that were used, by the pool's numbers.
        self._entries: dict[int, int] = {}
        self._step_s = 0.0

    def note(self, sampled: Sequence[Sampled], step: int) -> None:
        """Enter what the step that makes `step` steps done is about to use. Waits for nobody."""
        started_s = time.perf_counter()
        time_s = int(self._clock())
        for item in sampled:
            if item.uses_before == 0:
                entry = self._writer.first_use(item.group.recipe, step=step, time_s=time_s)
                self._entries[item.number] = entry
        self._count_left(self._uses.take_left(), step)
        self._step_s += time.perf_counter() - started_s

    def flush(self, step: int) -> str | None:
        """Make everything up to `step` steps safe on disk; why it is not, or None.

        Waits for the disk.
        """
        started_s = time.perf_counter()
        left, held = self._uses.take_uses()
        self._count_left(left, step)
        for number, uses in held.items():
            self._writer.count(self._entries[number], uses, step=step, left=False)
        error = self._writer.flush()
        self._step_s += time.perf_counter() - started_s
        return error

    def close(self, step: int) -> str | None:
        """The attempt is over: what is held leaves with it. Why something is not on disk, or None.

        Waits for the disk.
        """
        left, held = self._uses.take_uses()
        self._count_left(left | held, step)
        return self._writer.close()

    def counters(self) -> LedgerCounters:
        """A snapshot."""
        return msgspec.structs.replace(self._writer.counters(), step_s=self._step_s)

    def _count_left(self, left: Mapping[int, int], step: int) -> None:
        for number, uses in left.items():
            self._writer.count(self._entries.pop(number), uses, step=step, left=True)


def open_ledger(
    config: Config,
    role: TrainerRole,
    uses: UseSource,
    *,
    resumed_step: int,
    say: Callable[[str], None],
) -> TrainerLedger:
    """Begin this trainer's file of this attempt.

    Raises:
        ConfigError: it cannot be written.
    """
    header = Header(
        run_id=role.run_id,
        run_seed=config.run.seed,
        incarnation=role.incarnation,
        trainer=role.trainer_index,
        num_trainers=role.num_trainers,
        resumed_step=resumed_step,
        started_s=int(time.time()),
        images=config.images.model_dump_json(),
    )
    path = role.folder.ledger / file_name(role.incarnation, role.trainer_index)
    try:
        writer = LedgerWriter(DurableFile(path), header, say=say)
    except OSError as error:
        raise ConfigError(
            f"run.dir: the ledger {path} cannot be written ({error.strerror}); make room, or name "
            "another folder."
        ) from None
    return TrainerLedger(writer, uses)
