"""Collects every trainer's figures; on trainer 0 also turns them into metrics and a summary.

`collect` waits for all trainers to call it at the same step; the rest waits for nobody.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import psutil
import torch

from online_synclr.monitor.waits import WaitClock
from online_synclr.stream.peers import ReceiverCounters
from online_synclr.stream.receiver import Receiver
from trainer.batch import concept_id
from trainer.distinct import DistinctCounter
from trainer.distributed import Trainers
from trainer.generator_watch import GeneratorWatch
from trainer.intake import Intake, IntakeCounters, Sampled
from trainer.ledger import TrainerLedger
from trainer.probes import Probes
from trainer.report import (
    Merged,
    TrainerReport,
    dropped_by_reason,
    gather_reports,
    merge,
    peer_report,
    stream_counts,
)
from trainer.share_guide import ShareGuide
from trainer.step_meter import StepMeter
from trainer.totals import Totals

OTHER_SOURCES: Final = "(other)"
"""Sources that the trainers' concept bank does not have: those of a generator's own bank."""


class Reporter:
    """One trainer's figures, and those of all.

    `before`: what earlier attempts counted; trainer 0 alone goes on from it.
    """

    def __init__(
        self,
        *,
        trainers: Trainers,
        intake: Intake,
        receiver: Receiver,
        watch: GeneratorWatch,
        meter: StepMeter,
        waits: WaitClock,
        before: Totals,
        ledger: TrainerLedger,
        guide: ShareGuide,
        probes: Probes,
    ) -> None:
        self._probes = probes
        self._guide = guide
        self._sources: Counter[str] = Counter(dict.fromkeys(guide.sources, 0))
        self._trainers = trainers
        self._intake = intake
        self._receiver = receiver
        self._watch = watch
        self._meter = meter
        self._waits = waits
        self._ledger = ledger
        first = trainers.is_first
        self._captions = DistinctCounter.from_bytes(before.captions if first else b"")
        self._concepts = DistinctCounter.from_bytes(before.concepts if first else b"")

    def note_sampled(self, sampled: Sequence[Sampled]) -> None:
        """Note the groups of a batch: those used for the first time are new classes."""
        for item in sampled:
            if item.uses_before == 0:
                self._captions.add(item.caption_id)
                self._concepts.add(concept_id(item.group.recipe.concept))
                if self._sources:
                    source = item.group.recipe.source
                    self._sources[source if source in self._sources else OTHER_SOURCES] += 1

    def collect(self) -> Merged:
        """Everybody's figures added up. Waits for the device and for every trainer.

        Raises:
            DivergedLossError: the loss has not been finite for too long (on every trainer).
        """
        reports = gather_reports(self._own_report(), self._trainers.cpu_group)
        return merge(reports)

    def start_window(self) -> None:
        """The next losses collected are means over the steps from here on."""
        self._meter.start_window()

    def _own_report(self) -> TrainerReport:
        reading = self._meter.read()
        received, intake = read_together(self._receiver, self._intake)
        return TrainerReport(
            losses=reading.means,
            num_finite_steps=reading.num_steps,
            non_finite_steps=reading.non_finite_steps,
            intake=intake,
            waits=self._waits.fractions(),
            peers=[peer_report(view) for view in self._watch.peers(fresh=True)],
            captions=self._captions.to_bytes(),
            concepts=self._concepts.to_bytes(),
            rss_bytes=psutil.Process().memory_info().rss,
            gpu_bytes=gpu_bytes(self._trainers.device),
            ledger=self._ledger.counters(),
            dropped=dropped_by_reason(received),
            sources=dict(self._sources),
            share_schedule=self._guide.look(),
            elapsed_s=self._waits.elapsed_s(),
            probe_s=self._probes.spent_s,
            **stream_counts(received),
        )


class Arrivals(Protocol):
    """The part of the receiver that counts."""

    def counters(self) -> ReceiverCounters:
        """A snapshot; never between a group's insertion and its being counted."""
        ...


class Insertions(Protocol):
    """The part of the intake that counts."""

    def counters(self) -> IntakeCounters:
        """A snapshot."""
        ...


def read_together(
    receiver: Arrivals, intake: Insertions
) -> tuple[ReceiverCounters, IntakeCounters]:
    """Both counters between the same two groups: each has received as many of this attempt.

    Read again while groups arrive between the readings. That ends: this thread samples none
    meanwhile, so the limiter lets only so many come.
    """
    before = receiver.counters()
    while True:
        inserted = intake.counters()
        after = receiver.counters()
        if after.received == before.received:
            return after, inserted
        before = after


def gpu_bytes(device: torch.device) -> int:
    """Most memory this process had allocated on its GPU; 0 on CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
