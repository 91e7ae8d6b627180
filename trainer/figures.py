"""The metrics of a logged step, by name; trainer 0 only. Nothing here waits."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from online_synclr.attempts import Attempts
from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.rates import RateBoard
from online_synclr.monitor.refusal_watch import RefusalWatch
from online_synclr.stream.peer_book import OTHERS
from trainer.objective.schedules import StepSettings
from trainer.report import GeneratorReport, Merged, add_counts
from trainer.save_record import SaveRecord
from trainer.totals import Totals, refused

TRAINERS = "trainers"
CURVES_S: Final = 10.0
"""Curves of single generators are drawn no closer than this: rates are over a longer window."""

_GENERATOR_COUNTERS = (
    "images_rendered",
    "captions_accepted",
    "captions_written",
    "wait_s/captions",
    "wait_s/credits",
    "wait_s/caption_queue_full",
    "busy_s/llm",
    "groups_rendered",
    "groups_gated",
)
_GENERATOR_WAITS = {
    metrics.WAIT_CAPTIONS: "wait_s/captions",
    metrics.WAIT_CREDITS: "wait_s/credits",
    metrics.WAIT_CAPTIONER: "wait_s/caption_queue_full",
}
_SETTLED_S = 10.0
"""After so long the first batches no longer decide what a side seems able to do."""
_LEAST_BUSY = 0.01
"""Share of time; what hardly ever works shows little of what it could do."""


class Figures:
    """Turns merged reports into metrics: rates over the recent window, waits since the first step.

    Rates and waits are of this attempt; counts are of all attempts (`before`).
    """

    def __init__(
        self,
        config: Config,
        before: Totals,
        *,
        attempts: Attempts | None = None,
        saves: SaveRecord | None = None,
        clock: Callable[[], float] = time.monotonic,
        shares_in_force: Callable[[int], Mapping[str, float]] = lambda step: {},
    ) -> None:
        self._shares_in_force = shares_in_force
        self._attempts = attempts or Attempts()
        self._saves = saves or SaveRecord(before.checkpoints_failed)
        self._images_per_group = config.images_per_group
        self._distils = bool(config.trainer.distillation.teacher)
        self._temperatures = {
            metrics.OPTIM_TEMPERATURE: config.trainer.contrastive.temperature,
            metrics.OPTIM_STUDENT_TEMPERATURE: config.trainer.mim.student_temperature,
        }
        self._before = before
        self._clock = clock
        self._board = RateBoard()
        self._start_s = clock()
        self._stop_s: float | None = None
        self._base: dict[str, float] = {}
        self.trainer_waits: dict[str, float] = {}
        """Share of the trainers' time by cause, from the first step to the last figures noted."""
        self._here_since_s: dict[str, float] = {}
        """When each generator that is here now was first heard of, or came back."""
        self._gone_s = 0.0
        """Time that generators were here, added up at their leaving; since the first step."""
        self._curves_due_s = self._start_s
        self.refusals = RefusalWatch(config)
        """Of captions and groups, lately."""

    def start(self, merged: Merged, step: int) -> None:
        """The first step of this attempt begins now: waits and whole-run rates count from here."""
        self._note(merged, step)
        self._start_s = self._clock()
        self._gone_s = 0.0
        counters = (*_GENERATOR_COUNTERS, "unique_images", "image_uses", "steps")
        self._base = {name: self._board.total(name) for name in counters}

    def stop(self, merged: Merged, step: int) -> None:
        """The last step is done: goodbyes, a checkpoint and kNN are no part of rates and waits."""
        self._note(merged, step)
        self._stop_s = self._clock()

    def metrics(self, merged: Merged, step: int, settings: StepSettings) -> dict[str, float]:
        """Every metric after `step` steps, of which the last one used `settings`."""
        self._note(merged, step)
        return {
            **self._losses(merged),
            **self._throughput(),
            **self._waits(merged),
            metrics.PROBE_TIME: merged.probe_s / merged.elapsed_s if merged.elapsed_s else 0.0,
            **self._capacities(),
            **_stream(merged, self._before),
            **_pool(merged),
            **_ledger(merged, self._before),
            **self._captions(merged),
            **self._shares(merged, step),
            **self._refusals(merged),
            **_optimizer(merged, settings, self._before),
            **self._temperatures,
            **_machines(merged, self._before),
            metrics.RUN_ATTEMPTS: self._attempts.attempts,
            metrics.RUN_THROWN_AWAY: self._attempts.thrown_away_steps,
            metrics.RUN_CHECKPOINTS_FAILED: self._saves.failed,
        }

    def whole_per_s(self, counter: str) -> float:
        """Mean rate of a counter since the first step, over all its owners."""
        elapsed_s = self._now_s() - self._start_s
        return self._since_start(counter) / elapsed_s if elapsed_s > 0 else 0.0

    def generator_waits(self) -> dict[str, float]:
        """Share of the generators' time since the first step (or their own start), by metric name.

        Time is taken from this trainer's clock: a STATUS mixes readings of several moments.
        """
        elapsed_s = self._generators_s()
        if elapsed_s <= 0:
            return dict.fromkeys(_GENERATOR_WAITS, 0.0)
        return {
            name: self._since_start(counter) / elapsed_s
            for name, counter in _GENERATOR_WAITS.items()
        }

    def generator_shares(self) -> dict[str, float]:
        """Each generator's part of the images rendered."""
        return self._board.shares("images_rendered")

    def _generators_s(self) -> float:
        """Time since the first step, added up over the generators that were here."""
        now_s = self._now_s()
        return self._gone_s + sum(
            now_s - max(self._start_s, since_s) for since_s in self._here_since_s.values()
        )

    def _now_s(self) -> float:
        return self._clock() if self._stop_s is None else self._stop_s

    def _since_start(self, counter: str) -> float:
        return self._board.total(counter) - self._base.get(counter, 0.0)

    def _note(self, merged: Merged, step: int) -> None:
        now_s = self._clock()
        self.trainer_waits = dict(merged.waits)
        # Those folded into OTHERS were counted under their own names.
        named = [one for one in merged.generators if one.generator_id != OTHERS]
        self.refusals.note({one.generator_id: one.counters for one in named})
        known = {one.generator_id for one in named}
        self._board.retire({TRAINERS, *known})
        for name in self._here_since_s.keys() - known:
            self._note_leaving(name, now_s)
        for generator in named:
            self._note_presence(generator, now_s)
            for counter in _GENERATOR_COUNTERS:
                reading = generator.counters.get(counter, 0.0)
                self._board.update(now_s, generator.generator_id, counter, reading)
        intake, images = merged.intake, self._images_per_group
        self._board.update(now_s, TRAINERS, "unique_images", intake.trained * images)
        self._board.update(now_s, TRAINERS, "image_uses", intake.group_uses * images)
        self._board.update(now_s, TRAINERS, "steps", step)
        for source, groups in merged.sources.items():
            self._board.update(now_s, TRAINERS, _of_source(source), groups)

    def _note_presence(self, generator: GeneratorReport, now_s: float) -> None:
        if generator.alive:
            self._here_since_s.setdefault(generator.generator_id, now_s)
        else:
            self._note_leaving(generator.generator_id, now_s)

    def _note_leaving(self, generator_id: str, now_s: float) -> None:
        since_s = self._here_since_s.pop(generator_id, None)
        if since_s is not None:
            self._gone_s += now_s - max(self._start_s, since_s)

    def _losses(self, merged: Merged) -> dict[str, float]:
        distillation = merged.losses["distillation"]
        return {
            **({metrics.LOSS_DISTILLATION: distillation} if self._distils else {}),
            metrics.LOSS_TOTAL: merged.losses["total"],
            metrics.LOSS_GLOBAL: merged.losses["global"],
            metrics.LOSS_LOCAL: merged.losses["local"],
            metrics.LOSS_MIM: merged.losses["mim"],
        }

    def _throughput(self) -> dict[str, float]:
        board = self._board
        values = {
            metrics.TRAINER_UNIQUE_IMAGES: board.recent_per_s("unique_images"),
            metrics.TRAINER_IMAGE_USES: board.recent_per_s("image_uses"),
            metrics.TRAINER_STEPS: board.recent_per_s("steps"),
            metrics.GENERATOR_IMAGES: board.recent_per_s("images_rendered"),
            metrics.GENERATOR_CAPTIONS: board.recent_per_s("captions_accepted"),
        }
        return {**values, **self._curves_by_generator()}

    def _curves_by_generator(self) -> dict[str, float]:
        """Of each that is here, when they are due: a crowd's would cost more than all the rest."""
        now_s, board = self._clock(), self._board
        if now_s < self._curves_due_s:
            return {}
        self._curves_due_s = now_s + CURVES_S
        values = {}
        shares = self.generator_shares()
        # Of those that left nothing more is told here: on spot machines they become thousands.
        for generator in self._here_since_s:
            images = board.meter(generator, "images_rendered").recent_per_s()
            captions = board.meter(generator, "captions_accepted").recent_per_s()
            values[metrics.of_generator(generator, "images_per_s")] = images
            values[metrics.of_generator(generator, "captions_per_s")] = captions
            values[metrics.of_generator(generator, "share")] = shares.get(generator, 0.0)
        return values

    def _waits(self, merged: Merged) -> dict[str, float]:
        trainers = {f"wait/trainer_{cause}": share for cause, share in merged.waits.items()}
        return {**trainers, **self.generator_waits()}

    def _capacities(self) -> dict[str, float]:
        """What each side would do if it never waited for the other; empty at first."""
        if self._now_s() - self._start_s < _SETTLED_S:
            return {}
        trainers_busy = max(_LEAST_BUSY, 1.0 - sum(self.trainer_waits.values()))
        values = {metrics.CAPACITY_STEPS: self.whole_per_s("steps") / trainers_busy}
        generators_s, since = self._generators_s(), self._since_start
        busy_s = max(_LEAST_BUSY * generators_s, generators_s - since("wait_s/credits"))
        if busy_s > 0:
            refused_share = since("groups_gated") / max(1.0, since("groups_rendered"))
            images = since("images_rendered") * (1.0 - refused_share)
            render_s = max(_LEAST_BUSY * generators_s, busy_s - since("wait_s/captions"))
            values[metrics.CAPACITY_GENERATOR] = images / busy_s
            values[metrics.CAPACITY_RENDERER] = images / render_s
        if since("busy_s/llm") > 0:
            accepted = since("captions_accepted")
            values[metrics.CAPACITY_CAPTIONS] = accepted / since("busy_s/llm")
        return values

    def _captions(self, merged: Merged) -> dict[str, float]:
        return {
            metrics.CAPTIONS_RATE: self._board.recent_per_s("captions_written"),
            metrics.CAPTIONS_DISTINCT: float(merged.distinct_captions),
            metrics.CAPTIONS_CONCEPTS: float(merged.distinct_concepts),
            metrics.CAPTIONS_SAME_CONCEPT: merged.losses["same_concept_share"],
            metrics.CAPTIONS_REPEATED: merged.repeated_share,
        }

    def _shares(self, merged: Merged, step: int) -> dict[str, float]:
        """Of the captions, by source: as they should be, and as trained on lately."""
        in_force = self._shares_in_force(step)
        if len(in_force) < 2:
            return {}
        rates = {name: self._board.recent_per_s(_of_source(name)) for name in merged.sources}
        total = sum(rates.values())
        trained = {name: rate / total for name, rate in rates.items()} if total else {}
        return {
            **{metrics.of_source(name, "in_force"): share for name, share in in_force.items()},
            **{metrics.of_source(name, "trained"): share for name, share in trained.items()},
        }

    def _refusals(self, merged: Merged) -> dict[str, float]:
        captions = add_counts(self._before.captions_rejected, refused(merged, "rejected/"))
        groups = add_counts(self._before.groups_gated, refused(merged, "gated/"))
        live = [one.generator_id for one in merged.generators if one.alive]
        return {
            metrics.CAPTIONS_REJECTED_SHARE: self.refusals.captions_share(live),
            metrics.GROUPS_REJECTED_SHARE: self.refusals.groups_share(live),
            **{metrics.rejected_captions(why): float(n) for why, n in sorted(captions.items())},
            **{metrics.rejected_groups(why): float(n) for why, n in sorted(groups.items())},
        }


def _of_source(name: str) -> str:
    return f"groups_of_source/{name}"


def _stream(merged: Merged, before: Totals) -> dict[str, float]:
    dropped = add_counts(before.dropped, merged.dropped)
    return {
        metrics.STREAM_LOST: float(before.lost + merged.lost),
        **{metrics.dropped(reason): float(count) for reason, count in sorted(dropped.items())},
    }


def _pool(merged: Merged) -> dict[str, float]:
    intake = merged.intake
    evictions = {
        metrics.evictions_with_uses_left(uses): float(count)
        for uses, count in sorted(intake.evicted_by_uses_left.items())
    }
    return {
        metrics.POOL_GROUPS: intake.groups,
        metrics.POOL_BYTES: intake.num_bytes,
        metrics.POOL_AGE: intake.mean_age_s,
        metrics.POOL_REUSE: intake.reuse_in_force,
        metrics.POOL_MEAN_USES: intake.group_uses / max(1, intake.received),
        metrics.POOL_EVICTED: sum(evictions.values()),
        metrics.POOL_EVICTED_UNUSED: intake.evicted_unused,
        metrics.POOL_CREDITS: intake.credits_in_flight,
        metrics.POOL_ERROR: intake.limiter_error,
        **evictions,
    }


def _ledger(merged: Merged, before: Totals) -> dict[str, float]:
    ledger = merged.ledger
    on_disk = before.ledger_groups + ledger.groups_on_disk
    return {
        metrics.LEDGER_GROUPS: before.ledger_groups + ledger.groups,
        metrics.LEDGER_LOST: before.ledger_lost + ledger.lost,
        metrics.LEDGER_BYTES_PER_GROUP: (before.ledger_bytes + ledger.num_bytes) / max(1, on_disk),
        metrics.LEDGER_STEP_S: ledger.step_s,
        metrics.LEDGER_THREAD_S: ledger.thread_s,
    }


def _optimizer(merged: Merged, settings: StepSettings, before: Totals) -> dict[str, float]:
    return {
        metrics.OPTIM_LR: settings.lr,
        metrics.OPTIM_WEIGHT_DECAY: settings.weight_decay,
        metrics.OPTIM_GRAD_NORM: merged.losses["grad_norm"],
        metrics.OPTIM_EMA: settings.ema,
        metrics.OPTIM_TEACHER_TEMPERATURE: settings.teacher_temperature,
        metrics.OPTIM_NON_FINITE: before.non_finite_steps + merged.non_finite_steps,
    }


def _machines(merged: Merged, before: Totals) -> dict[str, float]:
    counters = [generator.counters for generator in merged.generators]
    restarts = sum(counter.get("restarts", 0.0) for counter in counters)
    return {
        metrics.MEMORY_TRAINER: merged.rss_bytes,
        metrics.MEMORY_TRAINER_GPU: merged.gpu_bytes,
        metrics.MEMORY_GENERATOR: max((c.get("rss_bytes", 0.0) for c in counters), default=0.0),
        metrics.GENERATORS_ALIVE: sum(generator.alive for generator in merged.generators),
        metrics.GENERATORS_RESTARTS: before.generator_restarts + restarts,
    }
