"""What the command line tells a trainer rank about its place in the run. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from online_synclr.rendezvous import Rendezvous
from online_synclr.run_folder import RunFolder
from online_synclr.topology import Roster

if TYPE_CHECKING:
    from torch.distributed import Store


@dataclass(frozen=True, kw_only=True)
class TrainerRole:
    """One trainer rank's place in one attempt of a run.

    `launch_time` is the wall clock (`time.time()`) at which the rank's process was launched;
    `cpu_threads` is this rank's share of the node's cores, in torch threads; `gpu` is its index
    on the node, or None on CPU; `attempt` counts torchrun's restarts from 0.
    """

    run_id: str
    run_dir: Path
    incarnation: int
    trainer_index: int
    roster: Roster
    gpu: int | None
    cpu_threads: int
    rendezvous: Rendezvous
    attempt: int
    launch_time: float

    @property
    def num_trainers(self) -> int:
        """Trainer ranks of the whole run."""
        return len(self.roster.trainers)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run folder, TensorBoard and the console."""
        return self.trainer_index == 0

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.run_dir)

    @property
    def store(self) -> "Store":
        """The trainers' own part of the store."""
        return self.rendezvous.trainer_store()
