"""Generators under thousands of names, one after the other: sums stay right, memory is bounded."""

import pytest

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.console_state import ConsoleState
from online_synclr.monitor.rates import RateBoard
from online_synclr.monitor.refusal_watch import RefusalAlarm, Tally
from online_synclr.names_kept import MAX_NAMES, forget_gone
from online_synclr.stream import peer_book
from online_synclr.stream.admission import Terms
from online_synclr.stream.failures import Failure, FailureLog
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import Bye, Error, Hello, Message, Welcome, peer_identity
from online_synclr.stream.trainer_side import TrainerSide
from tests.monitor_helpers import make_roles
from tests.report_helpers import make_intake, make_report
from tests.stream_helpers import RUN_ID, SHAPE, FakeSink, make_hello
from trainer.failures import FailureReport, FailureTeller
from trainer.figures import _GENERATOR_COUNTERS, Figures
from trainer.objective.schedules import StepSettings
from trainer.report import GeneratorReport, Merged, merge, peer_report
from trainer.roll_call import RollCall
from trainer.totals import Totals

SETTINGS = StepSettings(lr=1e-3, weight_decay=0.1, ema=0.99, teacher_temperature=0.05)
NAMES = 1000
KEPT = 50
IMAGES = 8.0
BLOCK = 64
SILENCE_S = 8.0


class Spots:
    """A trainer's own view of generators that come, render a little, fail and never come back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer_book, "MAX_GENERATORS_NAMED", KEPT)
        self.now_s = 0.0
        self.side = TrainerSide(
            terms=Terms(run_id=RUN_ID, image_shape=SHAPE),
            sink=FakeSink(8),
            credits_per_generator=4,
            silence_s=SILENCE_S,
        )

    def say(self, hello: Hello, message: Message) -> None:
        self.side.on_frames(peer_identity(hello), pack(message), self.now_s)

    def come_and_go(self, name: str, stream: int = 1) -> None:
        hello = make_hello(name, stream=stream)
        self.say(hello, hello)
        self.say(hello, Error(message="boom"))
        counters = {"images_rendered": IMAGES, "captions_written": 4.0, "rejected/empty": 4.0}
        self.say(hello, Bye(counters=counters, sent=0))
        self.now_s += 1.0

    def merged(self) -> Merged:
        peers = [peer_report(view) for view in self.side.views(self.now_s)]
        return merge([make_report(intake=make_intake(), peers=peers)])


@pytest.fixture
def spots(monkeypatch: pytest.MonkeyPatch) -> Spots:
    return Spots(monkeypatch)


def test_sums_are_right_and_no_meter_is_kept_of_those_long_gone(spots: Spots) -> None:
    figures = Figures(Config(), Totals(), clock=lambda: spots.now_s)
    figures.start(spots.merged(), 0)
    for number in range(NAMES):
        spots.come_and_go(f"spot-{number}")
        if number % 10 == 9:
            figures.metrics(spots.merged(), number, SETTINGS)
    assert figures.whole_per_s("images_rendered") * spots.now_s == NAMES * IMAGES
    counted = figures.generator_shares()
    assert len(counted) == KEPT
    assert sum(counted.values()) == pytest.approx(KEPT / NAMES)
    meters = sum(len(of) for of in figures._board._meters.values())
    assert meters <= len(_GENERATOR_COUNTERS) * KEPT + 3
    assert peer_book.OTHERS not in counted
    assert not any(peer_book.OTHERS in line for line in figures.refusals.lines)


def test_a_name_that_comes_back_after_it_was_folded_is_counted_on(spots: Spots) -> None:
    figures = Figures(Config(), Totals(), clock=lambda: spots.now_s)
    figures.start(spots.merged(), 0)
    names = ["again", *(f"spot-{number}" for number in range(2 * KEPT)), "again"]
    for stream, name in enumerate(names):
        spots.come_and_go(name, stream)
        figures.metrics(spots.merged(), 1, SETTINGS)
    expected = (2 * KEPT + 2) * IMAGES
    assert figures.whole_per_s("images_rendered") * spots.now_s == pytest.approx(expected)


def test_a_generator_that_is_forgotten_between_two_reports_waits_no_more() -> None:
    now_s = 0.0
    figures = Figures(Config(), Totals(), clock=lambda: now_s)
    waiting = GeneratorReport(
        generator_id="spot",
        alive=True,
        state="running",
        counters={"wait_s/credits": 0.0},
        first_error=None,
    )
    empty = merge([make_report(peers=[])])
    figures.start(_with(empty, waiting), 0)
    now_s = 10.0
    figures.metrics(empty, 1, SETTINGS)
    now_s = 1000.0
    values = figures.metrics(empty, 2, SETTINGS)
    assert not any(metrics.is_of_generator(name) for name in values)
    assert figures._here_since_s == {}
    assert figures._gone_s == 10.0


def _with(merged: Merged, *generators: GeneratorReport) -> Merged:
    return Merged(
        **{
            **{name: getattr(merged, name) for name in merged.__struct_fields__},
            "generators": list(generators),
        }
    )


def test_retiring_keeps_totals_and_leaves_the_others_alone() -> None:
    board = RateBoard()
    for time_s in (0, 10):
        for owner in ("a", "b"):
            board.update(time_s, owner, "images", time_s)
    board.retire({"b"})
    assert board.total("images") == 20
    assert board.recent_per_s("images") == 1
    assert board.shares("images") == {"b": 0.5}
    board.update(20, "a", "images", 5)
    assert board.total("images") == 25


def test_forgetting_takes_the_first_that_are_gone_and_nobody_who_is_here() -> None:
    kept = dict.fromkeys("abcdef", 0)
    assert forget_gone(kept, here="ac", most=4) == ["b", "d"]
    assert list(kept) == ["a", "c", "e", "f"]
    assert forget_gone(kept, here="ac", most=4) == []
    assert forget_gone(kept, here="acef", most=1) == []


def test_alarms_failures_and_roll_calls_remember_a_bounded_number_of_names() -> None:
    alarm = RefusalAlarm("captions", setting="x", limit=0.5, size=64)
    log, teller, roll = FailureLog(), FailureTeller(), RollCall()
    steady = {"g0": Tally(64, {"empty": 64})}
    told = FailureReport(
        time_s=0.0, kind="failed", incarnation=1, engine_start=0, stream=0, message="x"
    )
    log.note("g0", Failure("failed", 1, 0, "x", 0.0))
    for start in range(0, 2 * MAX_NAMES, BLOCK):
        names = [f"spot-{number}" for number in range(start, start + BLOCK)]
        alarm.note({**steady, **dict.fromkeys(names, Tally(64, {"empty": 64}))})
        for name in names:
            log.note(name, Failure("failed", 1, 0, "x", 0.0))
        lines = teller.lines({"g0": [told], **{name: [told] for name in names}})
        assert len(lines) == BLOCK + (start == 0), "g0 is here throughout and told of once"
        roll.changes([_report(name) for name in ("g0", *names)])
    log.note("g0", Failure("failed", 1, 1, "x", 1.0))
    assert len(alarm._recent) <= MAX_NAMES + BLOCK
    assert len(alarm._over) <= MAX_NAMES + BLOCK
    assert alarm.share(["g0"]) == 1.0
    assert len(log._first) == MAX_NAMES
    assert log.of("spot-0") == ()
    assert log.of(f"spot-{2 * MAX_NAMES - 1}") != ()
    assert len(teller._told) <= MAX_NAMES + BLOCK
    assert len(roll._seen) <= MAX_NAMES + BLOCK


def _report(name: str) -> GeneratorReport:
    return GeneratorReport(
        generator_id=name,
        alive=True,
        state="running",
        counters={},
        first_error=None,
        fingerprint="models",
    )


def test_the_console_drops_curves_of_those_that_left() -> None:
    state = ConsoleState(run_dir="x", roles=make_roles(), total_steps=10)
    share, other = (metrics.of_generator(name, "share") for name in ("spot-1", "spot-2"))
    state = state.with_scalars({metrics.GENERATOR_IMAGES: 1.0, share: 1.0})
    state = state.with_scalars({metrics.GENERATOR_IMAGES: 2.0})
    assert state.scalars == {metrics.GENERATOR_IMAGES: 2.0, share: 1.0}
    later = state.with_scalars({other: 0.5})
    assert later.scalars == {metrics.GENERATOR_IMAGES: 2.0, other: 0.5}


def test_curves_of_single_generators_are_drawn_now_and_then() -> None:
    now_s = 0.0
    figures = Figures(Config(), Totals(), clock=lambda: now_s)
    merged = merge([make_report()])
    drawn = []
    for step in range(60):
        now_s = float(step)
        values = figures.metrics(merged, step, SETTINGS)
        assert metrics.GENERATOR_IMAGES in values
        drawn += [step] if any(map(metrics.is_of_generator, values)) else []
    assert drawn == [0, 10, 20, 30, 40, 50]


def test_of_those_that_left_a_few_keep_a_record_and_torchruns_own_all(
    spots: Spots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_book, "MAX_GENERATORS_NAMED", MAX_NAMES)
    spots.come_and_go("g0")
    for number in range(2 * peer_book.MAX_GONE_NAMED):
        spots.come_and_go(f"spot-{number}")
    views = {view.generator_id: view for view in spots.side.views(spots.now_s)}
    assert len(views) == peer_book.MAX_GONE_NAMED + 3, "g0, the newest and the others as one"
    assert {"g0", peer_book.OTHERS} <= views.keys()
    rendered = sum(view.counters["images_rendered"] for view in views.values())
    assert rendered == (2 * peer_book.MAX_GONE_NAMED + 1) * IMAGES


def test_who_fell_silent_is_remembered_before_those_that_ended(spots: Spots) -> None:
    lost = make_hello("lost")
    spots.say(lost, lost)
    for _ in range(2 * int(SILENCE_S)):
        spots.side.check_silence(spots.now_s)
        spots.now_s += 1.0
    for number in range(2 * KEPT):
        spots.come_and_go(f"spot-{number}")
    (view,) = [view for view in spots.side.views(spots.now_s) if view.generator_id == "lost"]
    assert view.connection == "silent"
    (welcome,) = spots.side.on_frames(peer_identity(lost), pack(lost), spots.now_s)
    assert isinstance(welcome.message, Welcome), "it is let in again"
