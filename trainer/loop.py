"""The training loop: what a trainer does from its first vote to its last step.

    vote -> groups -> batch -> step -> figures -> checkpoint -> vote -> ...

It waits in two places only, both inside a round (`trainer.agreement`): for groups, which the
receiver's thread inserts, and for the other trainers' ballots. Collectives on the device, on the
CPU group and around checkpoints run after a vote, or at steps that the settings make common.
"""

import time
from dataclasses import dataclass

import torch

from online_synclr.config import Config
from online_synclr.monitor.waits import WaitClock
from trainer.agreement import Rounds
from trainer.batch import BatchMaker
from trainer.collectives import gather_bytes
from trainer.distributed import Trainers
from trainer.first_trainer import FirstTrainer
from trainer.generator_watch import GeneratorWatch
from trainer.intake import Intake, Sampled
from trainer.ledger import TrainerLedger
from trainer.objective.schedules import StepSettings
from trainer.reporter import Reporter
from trainer.role import TrainerRole
from trainer.shared_probe import SharedProbe
from trainer.starvation import Starvation
from trainer.step import TrainStep
from trainer.vote import Action, Decision
from trainer.writer import CheckpointWriter


@dataclass(frozen=True, kw_only=True)
class LoopParts:
    """What the loop works with. `first`: trainer 0's monitor and figures; None elsewhere."""

    config: Config
    role: TrainerRole
    trainers: Trainers
    intake: Intake
    rounds: Rounds
    waits: WaitClock
    batches: BatchMaker
    train: TrainStep
    reporter: Reporter
    ledger: TrainerLedger
    writer: CheckpointWriter
    starvation: Starvation
    watch: GeneratorWatch
    first: FirstTrainer | None
    probe: SharedProbe


class TrainLoop:
    """Runs steps until the last one, or until the vote says stop."""

    def __init__(self, parts: LoopParts, *, start_step: int) -> None:
        self._parts = parts
        self.step = start_step
        """Steps done, over all attempts."""
        self.last_step = parts.config.trainer.part_end(start_step)
        """Steps done when this attempt has no more to do: of the run, or of its part."""
        self.time_to_first_step_s = 0.0
        """From the process's launch to the end of this attempt's first step; 0 before."""

    def run(self) -> Decision | None:
        """Train; None after this attempt's last step, else the decision that stopped it.

        Raises:
            DivergedLossError: the loss was not finite for too long (on every trainer).
        """
        while self.step < self.last_step:
            decision = self._next_decision()
            if decision.action is Action.STOP:
                return decision
            self._one_step()
        return None

    def _next_decision(self) -> Decision:
        """Vote until all trainers step or stop; checkpoints that are due are saved on the way."""
        parts = self._parts
        while True:
            due = parts.writer.is_due(self.step)
            voted = parts.rounds.next(self.step, checkpoint_due=due)
            decision, name_it = parts.starvation.on_round(voted)
            if decision.checkpoint:
                parts.writer.save(self.step)
            if name_it:
                self._name_shortage(decision)
            if decision.action is not Action.WAIT:
                return decision
            if parts.first is not None:
                parts.first.show_waiting(self.step, decision)

    def _name_shortage(self, decision: Decision) -> None:
        """Each starved trainer knows its own generators. Waits for every trainer to come here."""
        parts = self._parts
        starved = parts.trainers.index in decision.missing
        own = parts.watch.shortage() if starved else ""
        said = gather_bytes(own.encode(), parts.trainers.cpu_group)
        if parts.first is not None:
            shortages = [said[index].decode() for index in decision.missing]
            parts.first.name_shortage(decision, shortages)

    def _one_step(self) -> None:
        parts = self._parts
        if not self.time_to_first_step_s:
            self._begin()
        sampled = self._sample()
        parts.ledger.note(sampled, self.step + 1)
        batch = parts.batches([item.group for item in sampled], self.step)
        settings = parts.train(batch, self.step)
        parts.reporter.note_sampled(sampled)
        self.step += 1
        if not self.time_to_first_step_s:
            self._first_step_done()
        self._report(settings, sampled)

    def _sample(self) -> list[Sampled]:
        parts = self._parts
        batch_groups = parts.config.trainer.batch_groups // parts.trainers.size
        # What was sampled before may be written over from here on.
        parts.batches.wait_read()
        sampled = parts.intake.try_sample(batch_groups)
        # Only this thread takes groups out, so a pool that was ready before the vote still is.
        assert sampled is not None, "the pool was ready before the vote and is not after it"
        return sampled

    def _begin(self) -> None:
        """All trainers are about to take this attempt's first step: waits count from here."""
        parts = self._parts
        parts.waits.start()
        merged = parts.reporter.collect()
        if parts.first is not None:
            parts.first.figures.start(merged, self.step)

    def _first_step_done(self) -> None:
        parts = self._parts
        if parts.trainers.device.type == "cuda":
            torch.cuda.synchronize(parts.trainers.device)
        self.time_to_first_step_s = time.time() - parts.role.launch_time
        if parts.first is not None:
            parts.first.say(f"first step after {self.time_to_first_step_s:.1f} s")

    def _report(self, settings: StepSettings, sampled: list[Sampled]) -> None:
        parts = self._parts
        monitor = parts.config.monitor
        if self.step % monitor.log_every_steps == 0 or self.step == self.last_step:
            merged = parts.reporter.collect()
            parts.reporter.start_window()
            if parts.first is not None:
                parts.first.log(self.step, merged, settings)
        if parts.first is not None:
            parts.first.after_step(self.step, sampled)
        if parts.probe.is_due(self.step):
            parts.probe.measure(self.step)
