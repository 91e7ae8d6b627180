"""Bad ends of generators: what a trainer notes of them, and what log and summary make of it."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_synclr.monitor.summary import Summary
from online_synclr.stream.admission import Terms
from online_synclr.stream.failures import (
    MAX_FIRST,
    MAX_LATEST,
    MAX_MESSAGE,
    Failure,
    FailureLog,
    one_line,
)
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import Bye, Error, Hello, Message, Status, peer_identity
from online_synclr.stream.peers import PeerView
from online_synclr.stream.trainer_side import TrainerSide
from tests.report_helpers import SUMMARY, make_peer, make_report, make_view
from tests.stream_helpers import RUN_ID, SHAPE, FakeSink, make_hello
from trainer.failures import (
    MAX_GENERATORS,
    FailureReport,
    FailureTeller,
    add_failures,
    failures_of,
    merge_failures,
)
from trainer.generator_watch import GeneratorWatch
from trainer.report import merge
from trainer.totals import Totals, add_up

SILENCE_S = 8.0
STATUS = Status(state="running", counters={}, sent=0)


class Trainer:
    """A trainer side with one generator's two connections, and a clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.side = TrainerSide(
            terms=Terms(run_id=RUN_ID, image_shape=SHAPE),
            sink=FakeSink(8),
            credits_per_generator=4,
            silence_s=SILENCE_S,
        )
        self.side.check_silence(self.now_s)
        self.control = make_hello(role="control", stream=3)
        self.say(self.control)

    def say(self, hello: Hello, message: Message | None = None) -> None:
        self.side.on_frames(peer_identity(hello), pack(message or hello), self.now_s)

    def join(self, start: int) -> Hello:
        engine = make_hello(stream=start * 2**31 + 3)
        self.say(engine)
        return engine

    def pass_silence(self, *speaking: Hello) -> None:
        until_s = self.now_s + 2 * SILENCE_S
        while self.now_s < until_s:
            self.now_s += 1.0
            for hello in speaking:
                self.say(hello, STATUS)
            self.side.check_silence(self.now_s)

    def ends(self) -> list[tuple[str, int, str]]:
        (view,) = self.side.views(self.now_s)
        return [(end.kind, end.stream // 2**31, end.message) for end in view.failures]


def test_an_end_told_by_engine_and_supervisor_is_one() -> None:
    trainer = Trainer()
    engine = trainer.join(0)
    trainer.say(engine, Error(message="OutOfMemoryError: CUDA\nmore"))
    trainer.say(trainer.control, Error(message="OutOfMemoryError: CUDA, said again", stream=3))
    assert trainer.ends() == [("failed", 0, "OutOfMemoryError: CUDA")]


def test_engines_that_never_joined_and_the_generators_own_end_are_noted() -> None:
    trainer = Trainer()
    for start in range(3):
        trainer.say(trainer.control, Error(message=f"boom {start}", stream=start * 2**31 + 3))
    trainer.say(trainer.control, Error(message="boom 0; at last: boom 2"))
    assert trainer.ends() == [
        ("failed", 0, "boom 0"),
        ("failed", 1, "boom 1"),
        ("failed", 2, "boom 2"),
        ("out", 2, "boom 0; at last: boom 2"),
    ]


def test_a_clean_end_is_no_failure() -> None:
    trainer = Trainer()
    engine = trainer.join(0)
    trainer.say(engine, Bye(counters={}, sent=0))
    trainer.say(trainer.control, Bye(counters={}, sent=0))
    trainer.pass_silence()
    assert trainer.ends() == []


def test_silence_of_both_connections_is_one_failure_of_the_newest_engine() -> None:
    trainer = Trainer()
    trainer.join(0)
    trainer.join(1)
    trainer.pass_silence()
    ((kind, start, message),) = trainer.ends()
    assert (kind, start) == ("silent", 1)
    assert message.startswith("nothing heard for ")


def test_a_silent_engine_is_noted_while_its_supervisor_speaks_but_not_the_other_way() -> None:
    trainer = Trainer()
    engine = trainer.join(0)
    trainer.pass_silence(engine)
    assert trainer.ends() == []
    trainer.say(trainer.control, STATUS)
    trainer.pass_silence(trainer.control)
    assert [kind for kind, _, _ in trainer.ends()] == ["silent"]


def test_a_supervisor_that_dies_while_its_engine_loads_is_silent() -> None:
    trainer = Trainer()
    trainer.pass_silence()
    assert [kind for kind, _, _ in trainer.ends()] == ["silent"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=80))
def test_the_log_keeps_the_first_and_the_latest_and_no_end_twice(streams: list[int]) -> None:
    log = FailureLog()
    for at_s, stream in enumerate(streams):
        log.note("g0", Failure("silent", 1, stream, "x", float(at_s)))
    kept = [end.at_s for end in log.of("g0")]
    if len(streams) <= MAX_FIRST + MAX_LATEST:
        assert kept == list(range(len(streams)))
    else:
        latest = range(len(streams) - MAX_LATEST, len(streams))
        assert kept == [*range(MAX_FIRST), *latest]
    for stream in streams:
        log.note("g1", Failure("failed", 1, stream, "x", 0.0))
    known = [end.stream for end in log.of("g1")]
    assert len(known) == len(set(known)) <= MAX_FIRST + MAX_LATEST
    assert log.of("g2") == ()


def test_messages_are_one_bounded_line() -> None:
    assert one_line("\n first \nsecond") == "first"
    assert one_line("") == ""
    assert len(one_line("x" * 9999)) == MAX_MESSAGE


def end(message: str, at_s: float = 0.0, **changes: object) -> FailureReport:
    values = {"kind": "failed", "incarnation": 1, "engine_start": 0, "stream": 0, **changes}
    return FailureReport(time_s=at_s, message=message, **values)  # type: ignore[arg-type]


def test_reports_are_on_the_wall_clock_and_count_starts() -> None:
    failure = Failure("failed", 2, 5 * 2**31 + 3, "boom", at_s=70.0)
    (report,) = failures_of(make_view(failures=(failure,), seen_at_s=100.0))
    assert report.time_s == pytest.approx(time.time() - 30.0, abs=5.0)
    assert (report.engine_start, report.incarnation, report.message) == (5, 2, "boom")
    assert report.stream == failure.stream


def test_what_several_trainers_heard_is_one_end() -> None:
    first = make_peer(
        "g0",
        8,
        failures=[end("a, by its supervisor", 10.2), end("silence 8 s", 90.0, kind="silent")],
    )
    second = make_peer("g0", 8, failures=[end("a", 10.0), end("silence 9 s", 91.0, kind="silent")])
    merged = merge([make_report(peers=[first]), make_report(peers=[second])])
    (generator,) = merged.generators
    assert [(one.kind, one.time_s) for one in generator.failures] == [
        ("failed", 10.0),
        ("silent", 90.0),
    ]


def test_a_generator_that_joined_anew_under_its_name_failed_anew() -> None:
    ends = [end("a", 1.0, stream=5), end("a", 2.0, stream=9)]
    assert merge_failures(ends) == ends
    assert len(FailureTeller().lines({"lab": ends})) == 2


def test_the_summary_has_the_failures_of_all_attempts(tmp_path: Path) -> None:
    peers = [make_peer("g0", 8, failures=[end("b", 20.0, incarnation=2)]), make_peer("g1", 8)]
    before = Totals(failures={"g0": [end("a", 10.0)], "spot": [end("x", 5.0, kind="out")]})
    totals = add_up(before, merge([make_report(peers=peers)]), wall_s=1.0, knn_before=None)
    messages = {name: [one.message for one in ends] for name, ends in totals.failures.items()}
    assert messages == {"g0": ["a", "b"], "spot": ["x"]}
    assert Totals.decode(totals.encode()) == totals


def test_kept_failures_are_bounded_and_keep_why_it_began() -> None:
    many = [end(f"boom {number}", float(number), stream=number) for number in range(100)]
    kept = merge_failures(many)
    assert [one.stream for one in kept] == [*range(MAX_FIRST), *range(100 - MAX_LATEST, 100)]
    spots = {f"spot{number}": [end("x", float(number))] for number in range(MAX_GENERATORS + 9)}
    assert list(add_failures({}, spots)) == [f"spot{n}" for n in range(9, MAX_GENERATORS + 9)]


def test_each_failure_is_told_once() -> None:
    teller = FailureTeller()
    first = end("boom")
    assert teller.lines({"g0": [first], "g1": []}) == ["generator g0, engine start 0, failed: boom"]
    more = [first, end("s", kind="silent"), end("boom; at last: boom", kind="out")]
    assert teller.lines({"g0": more}) == [
        "generator g0 is out: boom; at last: boom",
    ]
    assert teller.lines({"g0": more}) == []
    assert len(teller.lines({"g1": [first]})) == 1


def test_the_closing_words_name_the_first_failure_of_each_generator() -> None:
    ends = [{"message": "boom", "kind": "failed"}, {"message": "later", "kind": "failed"}]
    summary = Summary(**{**vars(SUMMARY), "failures": {f"g{n}": ends for n in range(6)}})
    text = summary.text(Path("runs/x"))
    assert "failed     g0: 2 times, first: boom" in text
    assert "g4:" not in text
    assert "failed     2 more generators, see summary.json" in text


def gone(name: str, message: str, at_s: float) -> PeerView:
    failures = (Failure("out", 1, 0, message, at_s),)
    return make_view(name, state="failed", first_error="of long ago", failures=failures)


class Peers:
    """Stands for the receiver."""

    def __init__(self, *views: PeerView) -> None:
        self._views = list(views)

    def peers(self) -> list[PeerView]:
        return self._views


def test_the_reason_for_having_no_generator_is_the_first_that_went_for_good() -> None:
    watch = GeneratorWatch(Peers(gone("g0", "late", 90.0), gone("g1", "early", 20.0)), 2)
    assert watch.reason() == "generator g1 failed first: early"
    assert [line.error for line in watch.lines()] == ["late", "early"]


def test_a_generator_that_comes_back_is_named_with_what_ended_it() -> None:
    failures = (Failure("failed", 1, 0, "boom", 1.0),)
    back = make_view("g0", state="loading", failures=failures)
    well = make_view("g1", failures=failures)
    watch = GeneratorWatch(Peers(back, well), 2)
    assert watch.reason() == "generators: g0 loading after: boom, g1 running"
