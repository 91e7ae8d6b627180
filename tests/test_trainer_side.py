"""A trainer's answers, without sockets: who is let in, what counts, what becomes of the dead."""

from collections.abc import Callable

import msgspec
import pytest

from online_synclr.stream import peer_book
from online_synclr.stream.admission import PlaceNumbers, Terms
from online_synclr.stream.fan_out import choose_trainers
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import (
    MAX_COUNTERS,
    Bye,
    ByeAck,
    Credit,
    End,
    Error,
    GroupHeader,
    Hello,
    Join,
    Message,
    Reject,
    Status,
    Ticket,
    Welcome,
    peer_identity,
)
from online_synclr.stream.trainer_side import WITHDRAWN_S, Outgoing, TrainerSide
from tests.stream_helpers import RUN_ID, SHAPE, FakeSink, images_of, make_hello, make_recipe

SILENCE_S = 8.0


class Bench:
    """A trainer side with a clock; `say` speaks as a generator, `packed` as anyone."""

    def __init__(self, room: int = 100, limit: int = 4) -> None:
        self.sink = FakeSink(room)
        self.now_s = 0.0
        self.side = TrainerSide(
            terms=Terms(run_id=RUN_ID, image_shape=SHAPE, incarnation=1, num_launched=2),
            sink=self.sink,
            credits_per_generator=limit,
            silence_s=SILENCE_S,
        )
        self.side.addresses = ["tcp://127.0.0.1:1"]
        self.side.check_silence(0.0)

    def say(self, hello: Hello, message: Message, payload: bytes = b"") -> list[Message]:
        out = self.side.on_frames(peer_identity(hello), pack(message, payload), self.now_s)
        assert all(outgoing.route == peer_identity(hello) for outgoing in out)
        return [outgoing.message for outgoing in out]

    def ask(self, join: Join) -> list[Message]:
        out = self.side.on_frames(b"asking", pack(join), self.now_s)
        return [outgoing.message for outgoing in out]

    def join(self, hello: Hello) -> int:
        """The lease period that WELCOME names."""
        (welcome, *_) = self.say(hello, hello)
        assert isinstance(welcome, Welcome)
        return welcome.lease

    def credits(self) -> dict[bytes, int]:
        granted: dict[bytes, int] = {}
        for outgoing in self.side.issue_credits():
            assert isinstance(outgoing.message, Credit)
            before = granted.get(outgoing.route, 0)
            granted[outgoing.route] = before + outgoing.message.num_groups
        return granted

    def send(self, hello: Hello, lease: int, sequence: int, **changes: object) -> list[Message]:
        return self.say(hello, header_of(lease, sequence, **changes), payload_of(sequence))

    def pass_time(self, seconds: float) -> None:
        """Let time pass as a receiver does: with checks in between."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + self.side.check_interval_s)
            self.side.check_silence(self.now_s)


def header_of(lease: int, sequence: int, **changes: object) -> GroupHeader:
    header = GroupHeader(
        recipe=make_recipe(sequence),
        shape=SHAPE,
        encoding="raw",
        payload_bytes=len(payload_of(0)),
        sequence=sequence,
        lease=lease,
    )
    return msgspec.structs.replace(header, **changes)


def payload_of(counter: int) -> bytes:
    return images_of(counter).tobytes()


def adds_up(bench: Bench) -> bool:
    now = bench.side.counters()
    views = bench.side.views(bench.now_s)
    per_peer = all(view.sent == view.received + view.lost + view.discarded for view in views)
    total = now.sent == now.received + now.lost + sum(now.discarded.values())
    return per_peer and total and now.received == len(bench.sink.groups)


def test_a_group_under_a_credit_is_inserted() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    assert bench.credits() == {peer_identity(hello): 4}
    assert bench.sink.in_flight == 4
    for sequence in range(3):
        assert bench.send(hello, lease, sequence) == []
    assert [group.recipe.counter for group in bench.sink.groups] == [0, 1, 2]
    assert bench.sink.in_flight == bench.side.counters().credits_in_flight == 1
    assert adds_up(bench)


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        (make_hello(run_id="other"), ["run id 'other'", "'run-1'"]),
        (msgspec.structs.replace(make_hello(), protocol=9), ["protocol version 9", "speaks 5"]),
        (make_hello(shape=(2, 3, 8, 9)), ["(2, 3, 8, 9)", "images.send_px"]),
    ],
)
def test_strangers_are_refused_with_a_reason(hello: Hello, words: list[str]) -> None:
    bench = Bench()
    (answer,) = bench.say(hello, hello)
    assert isinstance(answer, Reject)
    assert all(word in answer.reason for word in words)
    assert bench.side.views(0.0) == []
    assert bench.credits() == {}


def test_a_peer_is_answered_where_it_last_said_hello() -> None:
    bench = Bench()
    hello = make_hello()
    bench.side.on_frames(b"old", pack(hello), 0.0)
    bench.side.on_frames(b"new", pack(hello), 0.0)
    assert bench.credits() == {b"new": 4}
    bench.side.on_unsent(Outgoing(b"old", End(reason="")), unreachable=True)
    assert bench.side.counters().credits_in_flight == 4, (
        "the old connection's end is not the peer's"
    )
    assert bench.side.on_frames(b"old", pack(Bye(counters={}, sent=0)), 0.0) == []
    assert bench.side.views(0.0)[0].connection == "alive"
    assert bench.side.counters().malformed == {"unknown_peer": 1}


def test_a_connection_has_one_name() -> None:
    bench = Bench()
    bench.side.on_frames(b"one", pack(make_hello("g0")), 0.0)
    (answer,) = bench.side.on_frames(b"one", pack(make_hello("g1")), 0.0)
    assert isinstance(answer.message, Reject)
    assert [view.generator_id for view in bench.side.views(0.0)] == ["g0"]


@pytest.mark.parametrize(
    ("key_name", "generator_id", "admitted"),
    [
        ("ranks", "g0", True),
        ("ranks", "g12", True),
        ("ranks", "g", False),
        ("ranks", "spot", False),
        ("spot", "spot", True),
        ("spot", "spot.host-7", True),
        ("spot", "spotless", False),
        ("spot", "g0", False),
        (None, "g0", True),
    ],
)
def test_a_key_is_for_one_name(key_name: str | None, generator_id: str, admitted: bool) -> None:
    bench = Bench()
    bench.side.on_frames(b"g0", pack(make_hello("g0")), 0.0, "ranks")
    (answer,) = bench.side.on_frames(b"x", pack(make_hello(generator_id)), 0.0, key_name)
    assert isinstance(answer.message, Welcome if admitted else Reject)
    if not admitted:
        assert isinstance(answer.message, Reject)
        assert f"its key is '{key_name}'" in answer.message.reason
        assert bench.credits() == {b"g0": 4}, "others go on as before"


def test_whose_key_was_taken_back_is_not_heard() -> None:
    bench = Bench()
    bench.side.on_frames(b"x", pack(make_hello()), 0.0, "ranks")
    assert bench.credits() == {b"x": 4}
    assert bench.side.on_frames(b"x", pack(Bye(counters={}, sent=0)), 0.0, "") == []
    assert bench.side.views(0.0)[0].connection == "silent", "a BYE would have ended it"
    assert bench.side.counters().malformed == {"key_withdrawn": 1}
    assert bench.side.counters().credits_in_flight == 0
    (told,) = bench.side.on_frames(b"x", pack(make_hello()), WITHDRAWN_S, "")
    assert told.message == Reject(reason="its key was taken back")


def test_whose_key_counts_again_goes_on() -> None:
    bench = Bench()
    status = pack(Status(state="running", counters={}, sent=0))
    bench.side.on_frames(b"x", pack(make_hello()), 0.0, "ranks")
    bench.credits()
    assert bench.side.on_frames(b"x", status, 0.0, "") == []
    (answer,) = bench.side.on_frames(b"x", status, 1.0, "ranks")
    assert isinstance(answer.message, Welcome)
    assert bench.credits() == {b"x": 4}
    assert bench.side.on_frames(b"x", status, 2.0 * WITHDRAWN_S, "") == [], "counted anew"


def test_a_hello_of_an_earlier_connection_is_read_too_late() -> None:
    bench = Bench()
    first, second = (msgspec.structs.replace(make_hello(), connection=n) for n in (1, 2))
    for route, hello in ((b"old", first), (b"new", second), (b"old", first)):
        bench.side.on_frames(route, pack(hello), 0.0)
    assert bench.credits() == {b"new": 4}
    assert bench.side.counters().malformed == {"stale_hello": 1}


def test_another_protocol_on_the_wire_is_refused() -> None:
    bench = Bench()
    (frame,) = pack(make_hello())
    other = bytes(frame[:4]) + b"\x07\x00" + bytes(frame[6:])
    (answer,) = bench.side.on_frames(b"someone", [other], 0.0)
    assert isinstance(answer.message, Reject)
    assert "protocol version 7" in answer.message.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda: {"shape": (2, 3, 4, 16)}, "shape"),
        (lambda: {"recipe": make_recipe(0, stream=9)}, "foreign_recipe"),
        (lambda: {"encoding": "jpeg"}, "jpeg_table"),
    ],
)
def test_unfit_groups_are_discarded_and_their_credit_returns(
    change: Callable[[], dict[str, object]], reason: str
) -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.send(hello, lease, 0, **change())
    assert bench.sink.in_flight == 3
    assert bench.side.counters().discarded == {reason: 1}
    assert bench.sink.groups == []
    assert bench.credits() == {peer_identity(hello): 1}
    assert adds_up(bench)


def test_a_corrupted_group_is_discarded_and_its_credit_returns() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    header, payload = pack(header_of(lease, 0), payload_of(0))
    broken = bytes([payload[0] ^ 1]) + bytes(payload[1:])
    bench.side.on_frames(peer_identity(hello), [header, broken], 0.0)
    assert bench.side.counters().discarded == {"checksum": 1}
    assert bench.sink.in_flight == 3
    assert adds_up(bench)


def test_groups_without_credit_are_discarded() -> None:
    bench, hello = Bench(room=1), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.send(hello, lease, 0)
    bench.send(hello, lease, 1)
    assert bench.side.counters().discarded == {"late": 1}
    assert adds_up(bench)


def test_a_repeated_group_is_not_trained_on_twice() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.send(hello, lease, 0)
    bench.send(hello, lease, 0)
    assert bench.side.counters().discarded == {"repeated": 1}
    assert len(bench.sink.groups) == 1


def test_silence_reclaims_and_later_groups_are_late_once() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.send(hello, lease, 0)
    bench.say(hello, Status(state="running", counters={}, sent=3))
    bench.pass_time(SILENCE_S + 2)
    (view,) = bench.side.views(bench.now_s)
    assert (view.connection, view.sent, view.received, view.lost) == ("silent", 3, 1, 2)
    assert bench.sink.in_flight == 0
    assert bench.credits() == {}
    (welcome,) = bench.send(hello, lease, 1)
    assert isinstance(welcome, Welcome)
    assert welcome.lease != lease
    (view,) = bench.side.views(bench.now_s)
    assert (view.connection, view.discarded, view.lost) == ("alive", 1, 1)
    assert bench.credits() == {peer_identity(hello): 4}
    bench.send(hello, lease, 2)
    bench.send(hello, welcome.lease, 3)
    assert bench.side.counters().discarded == {"late": 2}
    assert len(bench.sink.groups) == 2
    assert adds_up(bench)


def test_heartbeats_keep_a_loading_generator_alive() -> None:
    bench, hello = Bench(), make_hello(role="control")
    bench.join(hello)
    for _ in range(5):
        bench.pass_time(SILENCE_S / 2)
        bench.say(hello, Status(state="loading", counters={}, sent=0))
    (view,) = bench.side.views(bench.now_s)
    assert (view.connection, view.state) == ("alive", "loading")
    assert bench.credits() == {}


def test_time_in_which_the_trainer_stood_still_is_nobodys_silence() -> None:
    bench, hello = Bench(), make_hello()
    bench.join(hello)
    bench.pass_time(1.0)
    bench.now_s += 100 * SILENCE_S
    bench.side.check_silence(bench.now_s)
    assert bench.side.views(bench.now_s)[0].connection == "alive"
    bench.pass_time(SILENCE_S + 2)
    assert bench.side.views(bench.now_s)[0].connection == "silent"


def test_bye_ends_and_is_acknowledged() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.send(hello, lease, 0)
    assert bench.say(hello, Bye(counters={"groups_sent": 2.0}, sent=2)) == [ByeAck()]
    (view,) = bench.side.views(0.0)
    assert (view.connection, view.lost, view.counters) == ("ended", 1, {"groups_sent": 2.0})
    assert bench.sink.in_flight == bench.side.live_engines == 0
    bench.pass_time(10 * SILENCE_S)
    assert bench.side.views(bench.now_s)[0].connection == "ended"
    assert adds_up(bench)


def test_an_engines_error_fails_it() -> None:
    bench, hello = Bench(), make_hello()
    bench.join(hello)
    bench.credits()
    bench.say(hello, Error(message="first"))
    bench.say(hello, Error(message="second"))
    assert bench.say(hello, Bye(counters={}, sent=0)) == [ByeAck()]
    (view,) = bench.side.views(0.0)
    assert (view.connection, view.first_error) == ("failed", "first")
    assert bench.sink.in_flight == 0


def test_the_supervisor_reports_its_dead_engine() -> None:
    bench = Bench()
    engine, control = make_hello(stream=4), make_hello(role="control", stream=0)
    bench.join(engine)
    bench.join(control)
    bench.credits()
    bench.say(control, Error(message="killed", stream=3))
    assert bench.sink.in_flight == 4
    bench.say(control, Error(message="killed again", stream=4))
    assert bench.sink.in_flight == 0
    bench.say(control, Status(state="idle", counters={"restarts": 2.0}, sent=0))
    (view,) = bench.side.views(0.0)
    assert (view.connection, view.state, view.first_error) == ("alive", "idle", "killed")


def test_a_newer_start_replaces_the_older_and_counters_add_up() -> None:
    bench = Bench()
    old, new = make_hello(stream=1), make_hello(stream=2)
    lease = bench.join(old)
    bench.credits()
    bench.send(old, lease, 0)
    counters = {"images_rendered": 8.0, "rss_bytes": 100.0}
    bench.say(old, Status(state="running", counters=counters, sent=1))
    bench.join(new)
    assert bench.credits() == {peer_identity(new): 4}
    counters = {"images_rendered": 2.0, "rss_bytes": 60.0}
    bench.say(new, Status(state="running", counters=counters, sent=0))
    (view,) = bench.side.views(0.0)
    assert view.counters == {"images_rendered": 10.0, "rss_bytes": 60.0}
    assert (view.connection, view.received) == ("alive", 1)
    # One that lives on, on another machine, is told; and what it sends is late.
    for (answer,) in (bench.send(old, lease, 1), bench.say(old, old)):
        assert isinstance(answer, Reject)
        assert "name of its own" in answer.reason
    assert bench.side.counters().discarded == {"late": 1}


def test_a_month_of_restarts_is_kept_in_a_few_records() -> None:
    bench = Bench()
    for stream in range(50):
        hello = make_hello(stream=stream)
        lease = bench.join(hello)
        bench.credits()
        bench.send(hello, lease, 0, recipe=make_recipe(0, stream=stream))
        counters = {"images_rendered": 2.0, "rss_bytes": float(stream)}
        bench.say(hello, Status(state="running", counters=counters, sent=3))
        control = make_hello(role="control", stream=stream)
        bench.join(control)
        bench.say(control, Status(state="running", counters={"restarts": 1.0}, sent=0))
    (view,) = bench.side.views(0.0)
    assert view.counters == {"images_rendered": 100.0, "rss_bytes": 49.0, "restarts": 50.0}
    assert (view.sent, view.received, view.lost) == (150, 50, 100)
    records = list(bench.side._peers.records())
    assert len(records) == 6, "two roles: the past, the last one replaced, the present"
    counts = bench.side.counters()
    assert counts.sent == counts.received + counts.lost == 150
    # Who is remembered by name only is not let in again, whatever else has been forgotten of it.
    (answer,) = bench.say(make_hello(stream=3), make_hello(stream=3))
    assert isinstance(answer, Reject)


JOIN = Join(generator_id="lab", image_shape=SHAPE)


def test_places_are_given_once_the_trainers_are_all_known() -> None:
    bench = Bench()
    assert bench.ask(JOIN) == []
    bench.side.complete = True
    first, second = bench.ask(JOIN)[0], bench.ask(JOIN)[0]
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    assert (first.run_id, first.incarnation, first.addresses) == (RUN_ID, 1, ["tcp://127.0.0.1:1"])
    assert (first.number, second.number) == (2, 3), "torchrun's generators have the first two"


def places(numbers: PlaceNumbers, count: int, **run: int) -> list[tuple[int, int]]:
    given = [numbers.next(**run) for _ in range(count)]
    return [place for place in given if place is not None]


def test_no_two_trainers_give_the_same_number() -> None:
    run = {"num_launched": 5, "num_trainers": 3}
    given = [number for t in range(3) for number, _ in places(PlaceNumbers(t), 40, **run)]
    assert sorted(given) == list(range(5, 125))


@pytest.mark.parametrize("asked", [0, 2])
def test_those_that_ask_one_trainer_are_spread_over_all(asked: int) -> None:
    run = {"num_launched": 0, "num_trainers": 4}
    served = [choose_trainers(4, 1, at) for _, at in places(PlaceNumbers(asked), 8, **run)]
    assert sorted(served) == [[0], [0], [1], [1], [2], [2], [3], [3]]


def test_numbers_are_used_up_and_never_given_again() -> None:
    given = places(PlaceNumbers(0), 6, num_launched=0, num_trainers=2**29)
    assert [number for number, _ in given] == [0, 2**29, 2 * 2**29, 3 * 2**29]


def test_the_engine_of_a_place_that_was_left_is_not_let_in_again() -> None:
    """Two machines under one name: the first one's engine is slow to load."""
    bench = Bench()
    bench.join(make_hello(role="control", stream=4))
    bench.join(make_hello(role="control", stream=5))
    bench.join(make_hello(stream=5))
    slow = make_hello(stream=4)
    (answer,) = bench.say(slow, slow)
    assert isinstance(answer, Reject)
    assert "name of its own" in answer.reason
    again = make_hello(stream=2**31 + 5)
    assert isinstance(bench.say(again, again)[0], Welcome)


def test_a_peers_word_for_what_it_sent_is_believed_within_reason() -> None:
    bench, hello = Bench(), make_hello()
    bench.join(hello)
    bench.credits()
    bench.say(hello, Status(state="running", counters={}, sent=2**63 - 1))
    assert (bench.side.counters().sent, bench.side.counters().lost) == (4, 4)


def test_counters_stay_countable() -> None:
    bench = Bench()
    for stream in range(6):
        hello = make_hello(stream=stream)
        bench.join(hello)
        names = {f"{stream}/{index}": 1.0 for index in range(MAX_COUNTERS - 1)}
        bench.say(hello, Status(state="running", counters=names, sent=0))
    (view,) = bench.side.views(0.0)
    assert len(view.counters) <= MAX_COUNTERS
    for wrong in (1e308, -1.0, 2.0**54):
        bench.say(hello, Status(state="running", counters={"images_rendered": wrong}, sent=0))
    assert bench.side.counters().malformed == {"counter_range": 3}


def test_names_of_those_long_gone_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_book, "MAX_GENERATORS_NAMED", 3)
    bench = Bench()
    for number in range(6):
        hello = make_hello(f"pod-{number}")
        lease = bench.join(hello)
        bench.credits()
        bench.send(hello, lease, 0)
        bench.say(hello, Bye(counters={"images_rendered": 2.0}, sent=1))
        bench.now_s += 1.0
    views = {view.generator_id: view for view in bench.side.views(bench.now_s)}
    others = peer_book.OTHERS
    assert sorted(views) == [others, "pod-3", "pod-4", "pod-5"]
    assert (views[others].received, views[others].counters) == (3, {"images_rendered": 6.0})
    assert bench.side.counters().received == 6
    for name in ("a", "b", "c", "g7"):
        hello = make_hello(name)
        assert isinstance(bench.say(hello, hello)[0], Welcome)
    hello = make_hello("d")
    (answer,) = bench.say(hello, hello)
    assert isinstance(answer, Reject)
    assert "let one of them go" in answer.reason


def test_what_peers_say_of_themselves_is_plain_text() -> None:
    bench = Bench()
    hello = msgspec.structs.replace(make_hello(), fingerprint="x\x1b[2J\x07 " + "y" * 4000)
    bench.join(hello)
    bench.say(hello, Error(message="boom\x1b]0;owned\x07\nmore"))
    (view,) = bench.side.views(0.0)
    assert "\x1b" not in view.fingerprint + (view.first_error or "")
    assert len(view.fingerprint) == 500
    assert (view.first_error or "").startswith("boom ]0;owned ")


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (msgspec.structs.replace(JOIN, run_id="other"), ["run id 'other'", "'run-1'"]),
        (msgspec.structs.replace(JOIN, protocol=9), ["protocol version 9"]),
        (msgspec.structs.replace(JOIN, image_shape=(3, 3, 8, 8)), ["images.per_caption"]),
        (msgspec.structs.replace(JOIN, generator_id="g1"), ["torchrun's own"]),
    ],
)
def test_who_does_not_fit_gets_no_place_but_a_reason(join: Join, words: list[str]) -> None:
    bench = Bench()
    bench.side.complete = True
    (answer,) = bench.ask(join)
    assert isinstance(answer, Reject)
    assert not answer.rejoin
    assert all(word in answer.reason for word in words)
    assert bench.side.counters().malformed == {"join_refused": 1}


def test_a_generator_of_another_attempt_is_sent_to_join_anew() -> None:
    bench = Bench()
    old = msgspec.structs.replace(make_hello(), incarnation=7)
    (answer,) = bench.say(old, old)
    assert isinstance(answer, Reject)
    assert answer.rejoin
    assert bench.side.views(0.0) == []


@pytest.mark.parametrize("final", [True, False])
def test_who_asks_at_the_end_is_told_whether_the_run_comes_back(final: bool) -> None:
    bench = Bench()
    bench.side.complete = True
    bench.side.announce_end("stopped", final=final)
    assert bench.ask(JOIN) == [End(reason="stopped", final=final)]


def test_end_is_told_to_all_and_to_latecomers() -> None:
    bench = Bench()
    for name in "ab":
        bench.join(make_hello(name))
    bench.credits()
    out = bench.side.announce_end("done")
    assert {outgoing.message for outgoing in out} == {End(reason="done")}
    assert len(out) == 2
    (welcome, end) = bench.say(make_hello("c"), make_hello("c"))
    assert isinstance(welcome, Welcome)
    assert end == End(reason="done")
    assert bench.credits() == {}


def test_groups_on_their_way_at_the_end_still_count() -> None:
    bench, hello = Bench(), make_hello()
    lease = bench.join(hello)
    bench.credits()
    bench.side.announce_end("done")
    bench.send(hello, lease, 0)
    assert len(bench.sink.groups) == 1


def test_credits_that_could_not_be_sent_return() -> None:
    bench, hello = Bench(), make_hello()
    bench.join(hello)
    (credit,) = bench.side.issue_credits()
    bench.side.on_unsent(credit, unreachable=False)
    assert bench.sink.in_flight == 0
    (credit,) = bench.side.issue_credits()
    bench.side.on_unsent(credit, unreachable=True)
    assert bench.sink.in_flight == 0
    assert bench.side.issue_credits() == []
    bench.join(hello)
    assert bench.credits() == {peer_identity(hello): 4}


def test_the_unknown_and_the_unexpected_are_counted() -> None:
    bench, hello = Bench(), make_hello()
    bench.say(hello, Status(state="running", counters={}, sent=1))
    bench.join(hello)
    bench.say(hello, End(reason="I say so"))
    bench.side.on_frames(b"x", [b"junk"], 0.0)
    bench.side.on_frames(b"x", [b"junk", b"more"], 0.0)
    counts = bench.side.counters().malformed
    assert counts == {"unknown_peer": 1, "unexpected": 1, "header_size": 2}


def test_nothing_is_answered_to_junk() -> None:
    bench = Bench()
    out: list[Outgoing] = []
    for frames in ([], [b""], [b"a" * 100], [b"a"] * 5):
        out += bench.side.on_frames(b"x", frames, 0.0)
    assert out == []
