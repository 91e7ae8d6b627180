"""From what each trainer knows to the figures of the whole run.

    meter, intake, receiver, waits -> TrainerReport -> gathered on the CPU group -> merge -> Merged

Every trainer makes its report at the same step; gathering waits for all of them. A generator that
serves several trainers tells each of them the same cumulative counters: the furthest ahead is
taken, never the sum. What each trainer counts itself (groups sent to it, received, lost) adds up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import torch.distributed as dist

from online_synclr.ledger.writer import LedgerCounters
from online_synclr.stream.peers import PeerView, ReceiverCounters
from trainer.collectives import gather_bytes
from trainer.distinct import count_sketch, merge_sketches
from trainer.failures import FailureReport, failures_of, merge_failures
from trainer.intake import IntakeCounters


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One generator as one trainer sees it; `counters` are the generator's own, cumulative.

    `fingerprint`: of its models.
    """

    generator_id: str
    connection: str
    state: str
    counters: dict[str, float]
    first_error: str | None
    fingerprint: str = ""
    failures: list[FailureReport] = []


class TrainerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one trainer knows. Cumulative unless the name says otherwise.

    `losses`: means over the steps since the last report. `waits`: shares of the time since the
    first step, by cause. `captions`, `concepts`: sketches of those trained on (`DistinctCounter`).
    `sent`, `lost`, `discarded`: groups of this attempt; the intake's counts are of all attempts.
    `dropped`: what was not taken in, by `group_`, `message_` or `stranger_` reason; this attempt's,
    as are the `ledger` and `sources`: groups trained on by the source of their concept.
    `share_schedule`: what a person has written into the run folder; trainer 0's alone.
    `elapsed_s`: since the first step of the attempt; `probe_s`: of that, for kNN and embeddings.
    """

    losses: dict[str, float]
    num_finite_steps: int
    non_finite_steps: int
    intake: IntakeCounters
    sent: int
    received: int
    lost: int
    discarded: int
    dropped: dict[str, int] = {}
    waits: dict[str, float]
    peers: list[PeerReport]
    captions: bytes
    concepts: bytes
    rss_bytes: int
    gpu_bytes: int
    ledger: LedgerCounters = LedgerCounters()
    sources: dict[str, int] = {}
    share_schedule: str = ""
    elapsed_s: float = 0.0
    probe_s: float = 0.0


class GeneratorReport(msgspec.Struct, frozen=True, kw_only=True):
    """One generator, over all trainers it serves."""

    generator_id: str
    alive: bool
    state: str
    counters: dict[str, float]
    first_error: str | None
    fingerprint: str = ""
    failures: list[FailureReport] = []


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run at one moment. `losses` and `waits` are means over the trainers.

    `probe_s` is the largest of the trainers', `elapsed_s` trainer 0's.
    """

    losses: dict[str, float]
    non_finite_steps: int
    intake: IntakeCounters
    sent: int
    received: int
    lost: int
    discarded: int
    dropped: dict[str, int] = {}
    waits: dict[str, float]
    generators: list[GeneratorReport]
    captions: bytes
    concepts: bytes
    rss_bytes: int
    gpu_bytes: int
    ledger: LedgerCounters = LedgerCounters()
    sources: dict[str, int] = {}
    share_schedule: str = ""
    elapsed_s: float = 0.0
    probe_s: float = 0.0

    @property
    def distinct_captions(self) -> int:
        """Different captions trained on, never more than groups trained on."""
        return min(count_sketch(self.captions), self.intake.trained)

    @property
    def distinct_concepts(self) -> int:
        """Different concepts trained on."""
        return min(count_sketch(self.concepts), self.intake.trained)

    @property
    def repeated_share(self) -> float:
        """Of the groups trained on, those whose caption had been trained on before."""
        trained = self.intake.trained
        return 1 - self.distinct_captions / trained if trained else 0.0


def gather_reports(report: TrainerReport, group: dist.ProcessGroup | None) -> list[TrainerReport]:
    """Everybody's report, in trainer order. Waits for every trainer to give one."""
    encoded = msgspec.msgpack.encode(report)
    parts = gather_bytes(encoded, group)
    return [msgspec.msgpack.decode(part, type=TrainerReport) for part in parts]


def peer_report(view: PeerView) -> PeerReport:
    """The part of a receiver's view that is the generator's own."""
    return PeerReport(
        generator_id=view.generator_id,
        connection=view.connection,
        state=view.state,
        counters=view.counters,
        first_error=view.first_error,
        fingerprint=view.fingerprint,
        failures=failures_of(view),
    )


def merge(reports: Sequence[TrainerReport]) -> Merged:
    """Add the reports of all trainers up."""
    return Merged(
        losses=_mean([report.losses for report in reports]),
        # Flags are reduced over the trainers, so that all count the same steps.
        non_finite_steps=reports[0].non_finite_steps,
        intake=merge_intakes([report.intake for report in reports]),
        sent=sum(report.sent for report in reports),
        received=sum(report.received for report in reports),
        lost=sum(report.lost for report in reports),
        discarded=sum(report.discarded for report in reports),
        dropped=add_counts(*(report.dropped for report in reports)),
        waits=_mean([report.waits for report in reports]),
        generators=merge_generators([report.peers for report in reports]),
        captions=merge_sketches(*(report.captions for report in reports)),
        concepts=merge_sketches(*(report.concepts for report in reports)),
        rss_bytes=max(report.rss_bytes for report in reports),
        gpu_bytes=max(report.gpu_bytes for report in reports),
        ledger=add_ledgers([report.ledger for report in reports]),
        sources=add_counts(*(report.sources for report in reports)),
        share_schedule=reports[0].share_schedule,
        elapsed_s=reports[0].elapsed_s,
        probe_s=max(report.probe_s for report in reports),
    )


def merge_intakes(parts: Sequence[IntakeCounters]) -> IntakeCounters:
    """Counts are summed, means weighted with the groups held, the reuse is a plain mean."""
    held = sum(part.groups for part in parts)
    evicted: Counter[int] = Counter()
    for part in parts:
        evicted.update(part.evicted_by_uses_left)
    return IntakeCounters(
        received=sum(part.received for part in parts),
        trained=sum(part.trained for part in parts),
        group_uses=sum(part.group_uses for part in parts),
        evicted_by_uses_left=dict(evicted),
        evicted_unused=sum(part.evicted_unused for part in parts),
        left=sum(part.left for part in parts),
        groups=held,
        num_bytes=sum(part.num_bytes for part in parts),
        mean_age_s=sum(part.mean_age_s * part.groups for part in parts) / max(1, held),
        mean_uses=sum(part.mean_uses * part.groups for part in parts) / max(1, held),
        limiter_error=sum(part.limiter_error for part in parts),
        reuse_in_force=sum(part.reuse_in_force for part in parts) / len(parts),
        credits_in_flight=sum(part.credits_in_flight for part in parts),
    )


def merge_generators(by_trainer: Sequence[Sequence[PeerReport]]) -> list[GeneratorReport]:
    """One report a generator: its counters once, alive if any trainer hears it."""
    views: dict[str, list[PeerReport]] = {}
    for peers in by_trainer:
        for peer in peers:
            views.setdefault(peer.generator_id, []).append(peer)
    return [_merge_views(generator_id, views[generator_id]) for generator_id in sorted(views)]


def _merge_views(generator_id: str, views: Sequence[PeerReport]) -> GeneratorReport:
    alive = [view for view in views if view.connection == "alive"]
    spokesman = (alive or list(views))[0]
    errors = [view.first_error for view in views if view.first_error is not None]
    counters: dict[str, float] = {}
    for view in views:
        for name, value in view.counters.items():
            counters[name] = max(value, counters.get(name, value))
    return GeneratorReport(
        generator_id=generator_id,
        alive=bool(alive),
        state=spokesman.state if alive else spokesman.connection,
        counters=counters,
        first_error=errors[0] if errors else None,
        fingerprint=next((view.fingerprint for view in views if view.fingerprint), ""),
        failures=merge_failures(*(view.failures for view in views)),
    )


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) / len(parts) for name in names}


def add_ledgers(ledgers: Sequence[LedgerCounters]) -> LedgerCounters:
    """Everybody's ledger, added up."""
    return LedgerCounters(
        groups=sum(ledger.groups for ledger in ledgers),
        lost=sum(ledger.lost for ledger in ledgers),
        groups_on_disk=sum(ledger.groups_on_disk for ledger in ledgers),
        num_bytes=sum(ledger.num_bytes for ledger in ledgers),
        step_s=sum(ledger.step_s for ledger in ledgers),
        thread_s=sum(ledger.thread_s for ledger in ledgers),
    )


def add_counts(*parts: Mapping[str, int]) -> dict[str, int]:
    """Counts by name, added up."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def dropped_by_reason(counters: ReceiverCounters) -> dict[str, int]:
    """What a receiver did not take in: groups, other messages, and strangers' connections."""
    kinds = {
        "group": counters.discarded,
        "message": counters.malformed,
        "stranger": counters.strangers,
    }
    return {f"{kind}_{reason}": n for kind, of in kinds.items() for reason, n in of.items()}


def stream_counts(counters: ReceiverCounters) -> dict[str, int]:
    """Groups of this attempt, for `TrainerReport`."""
    return {
        "sent": counters.sent,
        "received": counters.received,
        "lost": counters.lost,
        "discarded": sum(counters.discarded.values()),
    }
