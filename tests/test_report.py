"""Figures of all trainers: added up once, waits since the first step, counts of all attempts."""

from collections.abc import Iterator

import msgspec
import pytest
import torch.distributed as dist

from online_synclr.attempts import Attempts
from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.metrics import describe
from online_synclr.stream.peers import ReceiverCounters
from tests.rank_pool import RankPool
from tests.report_helpers import make_intake, make_peer, make_report, sketch
from trainer.closing import Ending, summarise
from trainer.collectives import broadcast_bytes, gather_bytes
from trainer.distinct import MAX_HASHES, DistinctCounter, count_sketch, merge_sketches
from trainer.figures import Figures
from trainer.intake import IntakeCounters
from trainer.objective.schedules import StepSettings
from trainer.report import (
    Merged,
    PeerReport,
    TrainerReport,
    gather_reports,
    merge,
    merge_generators,
)
from trainer.reporter import read_together
from trainer.step_meter import FIELDS
from trainer.totals import Totals, add_up

SETTINGS = StepSettings(lr=1e-3, weight_decay=0.1, ema=0.99, teacher_temperature=0.05)


def two_trainers() -> Merged:
    first = make_report()
    second = make_report(
        losses=dict.fromkeys(FIELDS, 4.0),
        intake=make_intake(groups=30, mean_age_s=6.0),
        waits={"groups": 0.4, "vote": 0.0},
        # The same generators a moment later: their own counters must not be added twice.
        peers=[make_peer("g0", 84), make_peer("g1", 36)],
        captions=sketch(range(5, 15)),
        rss_bytes=300,
    )
    return merge([first, second])


def test_generators_are_counted_once_however_many_trainers_they_serve() -> None:
    merged = two_trainers()
    counted = {g.generator_id: g.counters["images_rendered"] for g in merged.generators}
    assert counted == {"g0": 84, "g1": 40}
    totals = add_up(Totals(), merged, wall_s=1.0, knn_before=None)
    assert totals.images_rendered == 124
    assert totals.generator_restarts == 2


def test_what_trainers_count_themselves_adds_up() -> None:
    merged = two_trainers()
    assert (merged.sent, merged.received, merged.lost, merged.discarded) == (44, 40, 2, 2)
    assert merged.sent == merged.received + merged.lost + merged.discarded
    assert merged.dropped == {"group_late": 2, "stranger_no_key": 4}
    twice = add_up(Totals(dropped={"group_late": 5}), merged, wall_s=1.0, knn_before=None)
    assert twice.dropped == {"group_late": 7, "stranger_no_key": 4}
    intake = merged.intake
    assert intake.received == intake.trained + intake.evicted_unused + intake.left == 40
    assert intake.evicted_by_uses_left == {0: 8, 4: 6}
    assert intake.mean_age_s == pytest.approx((10 * 2.0 + 30 * 6.0) / 40)
    assert intake.reuse_in_force == 2.0


def test_means_and_largest() -> None:
    merged = two_trainers()
    assert merged.losses["total"] == 3.0
    assert merged.waits == pytest.approx({"groups": 0.3, "vote": 0.05})
    assert merged.non_finite_steps == 1, "every trainer counts the same steps"
    assert merged.rss_bytes == 300


def test_captions_seen_by_several_trainers_are_one_class() -> None:
    merged = two_trainers()
    assert merged.distinct_captions == 15
    assert merged.distinct_concepts == 3
    assert merged.repeated_share == pytest.approx(1 - 15 / 24)


@pytest.mark.parametrize("order", [1, -1])
def test_a_generator_is_alive_if_any_trainer_hears_it(order: int) -> None:
    silent = make_peer("g0", 10, connection="silent", first_error="out of memory")
    views = [[silent], [make_peer("g0", 9)]][::order]
    (generator,) = merge_generators(views)
    assert generator.alive
    assert generator.state == "running"
    assert generator.first_error == "out of memory"
    (gone,) = merge_generators([[silent]])
    assert (gone.alive, gone.state) == (False, "silent")


OF_PROBES = {
    name
    for name in metrics.METRICS
    if name.startswith(("knn/", "embeddings/", "probe/")) and name != metrics.PROBE_TIME
}
"""Written by themselves, when they are measured."""


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def figures_after(
    seconds: float, before: Totals, config: Config | None = None
) -> tuple[dict[str, float], Figures, Merged]:
    clock = Clock()
    figures = Figures(config or Config(), before, clock=clock)
    empty = make_intake(received=0, trained=0, group_uses=0)
    peers = [make_peer("g0", 8), make_peer("g1", 8)]
    figures.start(merge([make_report(intake=empty, peers=peers)]), 0)
    clock.now_s += seconds
    merged = merge([make_report()])
    return figures.metrics(merged, 10, SETTINGS), figures, merged


def test_every_metric_is_described() -> None:
    values, _, _ = figures_after(20.0, Totals())
    unknown = [name for name in values if describe(name) is None]
    assert unknown == []
    assert all(isinstance(value, int | float) for value in values.values())
    fixed = {name for name in metrics.METRICS if "<" not in name} - OF_PROBES
    fixed = {name for name in fixed if not name.startswith("supervised/")}
    assert fixed - values.keys() == {metrics.LOSS_DISTILLATION}


def test_with_a_frozen_teacher_its_loss_is_told() -> None:
    config = Config.model_validate({"trainer": {"distillation": {"teacher": "vit_large"}}})
    values, _, merged = figures_after(20.0, Totals(), config)
    assert values[metrics.LOSS_DISTILLATION] == merged.losses["distillation"] > 0


def test_shares_of_the_sources_stand_beside_what_was_trained_on() -> None:
    clock = Clock()
    in_force, before = {"cars": 0.4, "a/b": 0.6}, {"cars": 5, "a/b": 5, "(other)": 0}
    figures = Figures(Config(), Totals(), clock=clock, shares_in_force=lambda step: in_force)
    figures.start(msgspec.structs.replace(merge([make_report()]), sources=before), 0)
    clock.now_s += 10.0
    reports = [
        msgspec.structs.replace(make_report(), sources={"cars": 8, "a/b": 4, "(other)": 0}),
        msgspec.structs.replace(make_report(), sources={"cars": 0, "a/b": 2, "(other)": 1}),
    ]
    values = figures.metrics(merge(reports), 10, SETTINGS)
    assert values["shares/cars/in_force"] == 0.4
    assert values["shares/a_b/in_force"] == 0.6
    trained = [values[f"shares/{name}/trained"] for name in ("cars", "a_b", "(other)")]
    assert trained == pytest.approx([3 / 5, 1 / 5, 1 / 5])


def test_the_time_for_probes_is_that_of_the_trainer_where_it_is_most() -> None:
    reports = [
        msgspec.structs.replace(make_report(), elapsed_s=elapsed_s, probe_s=probe_s)
        for elapsed_s, probe_s in ((100.0, 1.0), (90.0, 1.5))
    ]
    values = Figures(Config(), Totals(), clock=Clock()).metrics(merge(reports), 10, SETTINGS)
    assert values[metrics.PROBE_TIME] == pytest.approx(0.015)


def test_rates_and_waits_count_from_the_first_step() -> None:
    values, figures, _ = figures_after(4.0, Totals())
    images = Config().images_per_group
    assert values[metrics.TRAINER_UNIQUE_IMAGES] == pytest.approx(12 * images / 4)
    assert values[metrics.TRAINER_IMAGE_USES] == pytest.approx(30 * images / 4)
    assert values[metrics.TRAINER_STEPS] == pytest.approx(10 / 4)
    assert values[metrics.GENERATOR_IMAGES] == pytest.approx((120 - 16) / 4)
    assert figures.whole_per_s("images_rendered") == pytest.approx((120 - 16) / 4)
    # 1.20 s of waiting now, 0.16 s of it before the first step, two generators for four seconds.
    assert values[metrics.WAIT_CREDITS] == pytest.approx((1.2 - 0.16) / 8)
    assert values[metrics.WAIT_CAPTIONS] == 0.0
    assert values[metrics.WAIT_GROUPS] == 0.2
    assert values["captions/rejected_too short"] == pytest.approx(15.0)
    assert values["groups/rejected_identical"] == pytest.approx(15.0)
    assert values[metrics.CAPTIONS_REJECTED_SHARE] == pytest.approx(1 / 4)
    assert values[metrics.GROUPS_REJECTED_SHARE] == pytest.approx(1 / 2)
    assert values["throughput_by_generator/g0/share"] == pytest.approx(80 / 120)


def test_capacities_are_rates_of_the_time_that_nobody_waited() -> None:
    early, _, _ = figures_after(4.0, Totals())
    assert not [name for name in early if name.startswith("capacity/")], "too early to say"
    values, _, _ = figures_after(20.0, Totals())
    assert values[metrics.CAPACITY_STEPS] == pytest.approx(10 / 20 / (1 - 0.3))
    # Two generators for 20 s, 1.04 s of which they waited for credits; half of it was refused.
    kept, busy_s = (120 - 16) / 2, 40 - (1.2 - 0.16)
    assert values[metrics.CAPACITY_GENERATOR] == pytest.approx(kept / busy_s)
    assert values[metrics.CAPACITY_RENDERER] == pytest.approx(kept / busy_s)
    captions = (120 - 16) / 4
    assert values[metrics.CAPACITY_CAPTIONS] == pytest.approx(captions / ((120 - 16) / 50))


def test_goodbyes_and_evaluation_are_no_part_of_rates_and_waits() -> None:
    _, figures, merged = figures_after(4.0, Totals())
    figures.stop(merged, 10)
    figures._clock = lambda: 1e6  # type: ignore[method-assign]
    assert figures.whole_per_s("images_rendered") == pytest.approx((120 - 16) / 4)
    assert figures.generator_waits()[metrics.WAIT_CREDITS] == pytest.approx((1.2 - 0.16) / 8)
    assert figures.trainer_waits["groups"] == 0.2


def test_those_that_left_are_in_no_wait_and_no_curve_any_more() -> None:
    """Spot machines come and go by the thousand; one that is there waits half of its time."""
    clock = Clock()
    figures = Figures(Config(), Totals(), clock=clock)

    def report(*peers: PeerReport) -> Merged:
        return merge([make_report(peers=list(peers))])

    figures.start(report(make_peer("g0", 8)), 0)
    gone = [make_peer(f"spot-{number}", 0, connection="ended") for number in range(50)]
    clock.now_s += 100.0
    values = figures.metrics(report(make_peer("g0", 5008), *gone), 10, SETTINGS)
    assert values[metrics.WAIT_CREDITS] == pytest.approx(0.5)
    assert [name for name in values if "spot" in name] == []
    assert "spot-7" in figures.generator_shares(), "of the images they have their part"


def test_no_time_has_passed() -> None:
    values, figures, _ = figures_after(0.0, Totals())
    assert values[metrics.WAIT_CREDITS] == 0.0
    assert figures.whole_per_s("steps") == 0.0


def test_the_summary_adds_up_over_attempts() -> None:
    first = make_report()
    after_first = add_up(Totals(), merge([first]), wall_s=100.0, knn_before=0.5)
    assert after_first.sent == 22
    second = make_report(
        # The intake counts on from the checkpoint; what its pool held unused was given up.
        intake=make_intake(received=50, trained=30, evicted_unused=8, left=12, group_uses=80),
        sent=33,
        received=30,
        lost=2,
        discarded=1,
        captions=sketch(range(25)),
    )
    merged = merge([second])
    values, figures, _ = figures_after(4.0, after_first)
    assert values[metrics.OPTIM_NON_FINITE] == 2
    totals = add_up(after_first, merged, wall_s=50.0, knn_before=0.5)
    ending = Ending(
        step=20, ended_by="all steps done", time_to_first_step_s=3.0, final_loss=2.0, knn_after=0.6
    )
    summary = summarise(
        Config(),
        ending=ending,
        merged=merged,
        before=after_first,
        totals=totals,
        figures=figures,
        attempts=Attempts(attempts=2, thrown_away_steps=7, incarnation=3),
    )
    assert (summary.attempts, summary.thrown_away_steps, summary.incarnation) == (2, 7, 3)
    assert summary.check_identities() == []
    assert (summary.groups_sent, summary.groups_received) == (55, 50)
    assert (summary.groups_lost, summary.groups_discarded) == (3, 2)
    assert summary.images_rendered == 240
    assert summary.captions_rejected == {"too short": 30}
    assert (summary.groups_rendered, summary.groups_gated) == (60, {"identical": 30})
    assert values["groups/rejected_identical"] == 30, "those of the attempt before count"
    assert summary.wall_s == 150.0
    assert (summary.knn_before, summary.knn_after) == (0.5, 0.6)
    assert summary.distinct_captions == 25
    assert Totals.decode(totals.encode()) == totals


# --- distinct things in bounded memory -----------------------------------------------------------


def test_distinct_counts_are_exact_while_they_are_few() -> None:
    counter = DistinctCounter()
    for number in range(5000):
        counter.add(str(number % 3000).encode())
    assert counter.count() == 3000
    assert DistinctCounter.from_bytes(counter.to_bytes()).count() == 3000
    assert DistinctCounter.from_bytes(b"").count() == 0


def test_distinct_counts_are_close_and_bounded_when_many() -> None:
    counter = DistinctCounter()
    for number in range(8 * MAX_HASHES):
        counter.add(number.to_bytes(8, "little"))
    assert counter.count() == pytest.approx(8 * MAX_HASHES, rel=0.04)
    assert len(counter.to_bytes()) == 8 * MAX_HASHES
    assert count_sketch(counter.to_bytes()) == counter.count()
    before = counter.to_bytes()
    added = 0
    while counter.to_bytes() == before:
        counter.add(f"another {added}".encode())
        added += 1
    assert DistinctCounter.from_bytes(counter.to_bytes()).count() == counter.count()


def test_merged_sketches_count_the_union() -> None:
    parts = [sketch(range(0, 60)), sketch(range(40, 100)), b""]
    assert DistinctCounter.from_bytes(*parts).count() == 100
    assert count_sketch(merge_sketches(*parts)) == 100
    assert merge_sketches(*parts) == DistinctCounter.from_bytes(*parts).to_bytes()
    assert count_sketch(merge_sketches()) == 0


# --- two ranks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def gather_own() -> list[TrainerReport]:
    rank = dist.get_rank()
    peers = [make_peer(f"g{index}", 10 * rank + index) for index in range(1 + 3 * rank)]
    return gather_reports(make_report(peers=peers, rss_bytes=rank), dist.group.WORLD)


def exchange_bytes() -> tuple[list[bytes], bytes]:
    rank = dist.get_rank()
    gathered = gather_bytes(b"x" * 1000 * rank, dist.group.WORLD)
    sent = bytes(range(256)) * 5 if rank == 0 else None
    return gathered, broadcast_bytes(sent, dist.group.WORLD)


def test_reports_of_any_size_reach_every_trainer(ranks: RankPool) -> None:
    first, second = ranks.run(gather_own)
    assert first == second
    assert [report.rss_bytes for report in first] == [0, 1]
    assert [len(report.peers) for report in first] == [1, 4]
    expected = ([b"", b"x" * 1000], bytes(range(256)) * 5)
    assert ranks.run(exchange_bytes) == [expected, expected]


def test_one_trainer_exchanges_with_nobody() -> None:
    assert gather_bytes(b"abc", None) == [b"abc"]
    assert broadcast_bytes(b"abc", None) == b"abc"


class Arriving:
    """A receiver's counts; after each of the first `late` readings, its or the intake's, another
    group comes.
    """

    def __init__(self, late: int) -> None:
        self.received = 7
        self._late = late

    def counters(self) -> ReceiverCounters:
        received = self.read()
        return ReceiverCounters(
            sent=received + 2,
            received=received,
            lost=2,
            discarded={},
            malformed={},
            credits_in_flight=0,
        )

    def read(self) -> int:
        received = self.received
        if self._late:
            self._late -= 1
            self.received += 1
        return received


class Inserted:
    """An intake that an earlier attempt has left 100 groups received."""

    def __init__(self, receiver: Arriving) -> None:
        self._receiver = receiver

    def counters(self) -> IntakeCounters:
        return make_intake(received=100 + self._receiver.read())


@pytest.mark.parametrize("late", [0, 1, 2, 5])
def test_groups_that_come_while_figures_are_read_are_in_both_counts(late: int) -> None:
    arriving = Arriving(late)
    stream, intake = read_together(arriving, Inserted(arriving))
    assert intake.received == 100 + stream.received
