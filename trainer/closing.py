"""The summary of a run, from the last collected figures; trainer 0 only."""

from dataclasses import dataclass

import msgspec

from online_synclr.attempts import Attempts
from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.summary import Summary
from trainer.figures import Figures
from trainer.report import Merged
from trainer.totals import Totals


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended. `final_loss`: mean over the last logged window."""

    step: int
    ended_by: str
    time_to_first_step_s: float
    final_loss: float | None
    knn_after: float | None


def summarise(
    config: Config,
    *,
    ending: Ending,
    merged: Merged,
    before: Totals,
    totals: Totals,
    figures: Figures,
    attempts: Attempts,
) -> Summary:
    """Counts and `wall_s` are of all attempts; rates, waits and the first step of this one.

    Args:
        config: the settings.
        ending: how this attempt ended.
        merged: collected after the generators had said goodbye.
        before, totals: what earlier attempts counted, and the same with this one.
        figures: rates and waits of this attempt, stopped after its last step.
        attempts: how many there were.
    """
    intake = merged.intake
    waits = figures.generator_waits()
    return Summary(
        steps=ending.step,
        groups_sent=before.sent + merged.sent,
        groups_received=intake.received,
        groups_trained=intake.trained,
        group_uses=intake.group_uses,
        groups_lost=totals.lost,
        groups_discarded=totals.discarded,
        dropped=totals.dropped,
        groups_evicted_unused=intake.evicted_unused,
        groups_left=intake.left,
        distinct_captions=merged.distinct_captions,
        images_rendered=totals.images_rendered,
        captions_accepted=totals.captions_accepted,
        captions_rejected=totals.captions_rejected,
        groups_rendered=totals.groups_rendered,
        groups_gated=totals.groups_gated,
        quality_alarms=list(figures.refusals.lines),
        trainer_images_per_s=figures.whole_per_s("unique_images"),
        trainer_image_uses_per_s=figures.whole_per_s("image_uses"),
        generator_images_per_s=figures.whole_per_s("images_rendered"),
        trainer_wait_fraction=sum(figures.trainer_waits.values()),
        generator_wait_fraction=waits[metrics.WAIT_CAPTIONS] + waits[metrics.WAIT_CREDITS],
        trainer_waits=figures.trainer_waits,
        generator_waits={
            "captions": waits[metrics.WAIT_CAPTIONS],
            "credits": waits[metrics.WAIT_CREDITS],
        },
        generator_shares=figures.generator_shares(),
        generator_models={
            generator.generator_id: generator.fingerprint
            for generator in merged.generators
            if generator.fingerprint
        },
        ledger=_ledger(totals),
        generator_restarts=totals.generator_restarts,
        failures=msgspec.to_builtins(totals.failures),
        time_to_first_step_s=ending.time_to_first_step_s,
        wall_s=totals.wall_s,
        attempts=attempts.attempts,
        incarnation=attempts.incarnation,
        thrown_away_steps=attempts.thrown_away_steps,
        checkpoints_failed=totals.checkpoints_failed,
        knn_before=totals.knn_before,
        knn_after=ending.knn_after,
        final_loss=ending.final_loss,
        ended_by=ending.ended_by,
        synthetic_parts=config.synthetic_parts,
    )


def _ledger(totals: Totals) -> dict[str, float]:
    entered = totals.ledger_groups
    return {
        "groups": entered,
        "groups_lost": totals.ledger_lost,
        "bytes": totals.ledger_bytes,
        "bytes_per_group": round(totals.ledger_bytes / entered, 1) if entered else 0.0,
    }
