"""What earlier attempts of a run add to its summary; kept in the checkpoint."""

import msgspec

from online_synclr.monitor.refusal_watch import refused_by_reason
from trainer.failures import Failures, add_failures
from trainer.report import Merged, add_counts


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative over the attempts up to a checkpoint. Groups unless named otherwise.

    `sent` is what then adds up with what was received, lost and discarded: groups on their way at
    that moment belong to no attempt. `captions_rejected` and `groups_gated`: what the generators
    refused themselves, by reason. `failures`: bad ends, by generator. `ledger_lost`: groups whose
    entry in the ledger was lost. `captions` and `concepts` are sketches (`DistinctCounter`).
    """

    wall_s: float = 0.0
    sent: int = 0
    lost: int = 0
    discarded: int = 0
    dropped: dict[str, int] = {}
    images_rendered: int = 0
    captions_accepted: int = 0
    captions_rejected: dict[str, int] = {}
    groups_rendered: int = 0
    groups_gated: dict[str, int] = {}
    generator_restarts: int = 0
    failures: Failures = {}
    non_finite_steps: int = 0
    checkpoints_failed: int = 0
    captions: bytes = b""
    concepts: bytes = b""
    knn_before: float | None = None
    ledger_groups: int = 0
    ledger_lost: int = 0
    ledger_bytes: int = 0

    def encode(self) -> bytes:
        """For the checkpoint."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "Totals":
        """The reverse of `encode`."""
        return msgspec.msgpack.decode(data, type=cls)


def add_up(
    before: Totals,
    merged: Merged,
    *,
    wall_s: float,
    knn_before: float | None,
    checkpoints_failed: int = 0,
) -> Totals:
    """The totals after `wall_s` seconds of this attempt.

    The intake and `checkpoints_failed` count all attempts already.
    """
    lost = before.lost + merged.lost
    discarded = before.discarded + merged.discarded
    return Totals(
        wall_s=before.wall_s + wall_s,
        sent=merged.intake.received + lost + discarded,
        lost=lost,
        discarded=discarded,
        dropped=add_counts(before.dropped, merged.dropped),
        images_rendered=before.images_rendered + generator_total(merged, "images_rendered"),
        captions_accepted=before.captions_accepted + generator_total(merged, "captions_accepted"),
        captions_rejected=add_counts(before.captions_rejected, refused(merged, "rejected/")),
        groups_rendered=before.groups_rendered + generator_total(merged, "groups_rendered"),
        groups_gated=add_counts(before.groups_gated, refused(merged, "gated/")),
        generator_restarts=before.generator_restarts + generator_total(merged, "restarts"),
        failures=add_failures(
            before.failures, {one.generator_id: one.failures for one in merged.generators}
        ),
        non_finite_steps=before.non_finite_steps + merged.non_finite_steps,
        checkpoints_failed=checkpoints_failed,
        captions=merged.captions,
        concepts=merged.concepts,
        knn_before=knn_before,
        ledger_groups=before.ledger_groups + merged.ledger.groups,
        ledger_lost=before.ledger_lost + merged.ledger.lost,
        ledger_bytes=before.ledger_bytes + merged.ledger.num_bytes,
    )


def generator_total(merged: Merged, counter: str) -> int:
    """One counter added up over the generators."""
    return int(sum(generator.counters.get(counter, 0.0) for generator in merged.generators))


def refused(merged: Merged, prefix: str) -> dict[str, int]:
    """This attempt's refusals over the generators, by reason; prefix: `rejected/` or `gated/`."""
    parts = [refused_by_reason(generator.counters, prefix) for generator in merged.generators]
    return add_counts(*parts)
