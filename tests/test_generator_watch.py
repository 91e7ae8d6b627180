"""Whether any generator is left, as a trainer tells it, and how a shortage is named."""

import pytest

from online_synclr.config import Config
from online_synclr.stream.errors import StreamError
from online_synclr.stream.peers import LEDGER_USED_UP, PeerView
from tests.report_helpers import make_view
from trainer import generator_watch
from trainer.figures import Figures
from trainer.first_trainer import FirstTrainer
from trainer.generator_watch import REFRESH_S, GeneratorWatch, num_serving
from trainer.totals import Totals
from trainer.vote import Action, Decision


class FakeReceiver:
    """Shows the views it is given; `dead` is a receiver whose thread has failed."""

    def __init__(self, *views: PeerView) -> None:
        self.views = list(views)
        self.dead = False
        self.reads = 0

    def peers(self) -> list[PeerView]:
        self.reads += 1
        if self.dead:
            raise StreamError("the receiver's thread failed")
        return self.views


def test_a_ledger_that_is_used_up_is_told_from_a_generator_that_left() -> None:
    done = {"connection": "ended", "counters": {LEDGER_USED_UP: 1.0}}
    first, second = make_view(**done), make_view("g1", **done)
    assert GeneratorWatch(FakeReceiver(first, second), 2).ledger_used_up()
    assert "captions.ledger" in GeneratorWatch(FakeReceiver(first), 1).reason()
    left = make_view("g1", connection="ended")
    assert not GeneratorWatch(FakeReceiver(first, left), 2).ledger_used_up()
    sending = make_view("g1", counters={LEDGER_USED_UP: 1.0})
    assert not GeneratorWatch(FakeReceiver(first, sending), 2).ledger_used_up()
    assert not GeneratorWatch(FakeReceiver(), 1).ledger_used_up()


GONE = [
    {"connection": "ended"},
    {"connection": "failed"},
    {"connection": "silent", "silent_for_s": 300.0},
    {"state": "failed"},
]


@pytest.mark.parametrize("gone", GONE)
def test_exhausted_when_every_generator_is_gone(gone: dict[str, str]) -> None:
    receiver = FakeReceiver(make_view("g0", **gone), make_view("g1", connection="ended"))
    assert GeneratorWatch(receiver, 2).exhausted()


def test_not_exhausted_while_one_is_alive_or_not_yet_heard_of() -> None:
    gone = make_view("g0", connection="failed")
    assert not GeneratorWatch(FakeReceiver(gone, make_view("g1")), 2).exhausted()
    assert not GeneratorWatch(FakeReceiver(gone), 2).exhausted()
    assert not GeneratorWatch(FakeReceiver(), 0).exhausted(), "others may still join"
    awaiting = GeneratorWatch(FakeReceiver(gone), 1, others_may_join=True)
    assert not awaiting.exhausted()
    loading = make_view("g0", state="loading", first_error="crashed once")
    assert not GeneratorWatch(FakeReceiver(loading), 1).exhausted(), "it is being restarted"


def test_a_dead_receiver_is_a_failure() -> None:
    receiver = FakeReceiver(make_view())
    watch = GeneratorWatch(receiver, 1)
    assert not watch.failed()
    receiver.dead = True
    watch.peers(fresh=True)
    assert watch.failed()
    assert watch.failure == "the receiver's thread failed"
    assert not GeneratorWatch(receiver, 2).await_all_heard(timeout_s=60), "nobody will come"


def test_views_are_read_anew_after_a_while_only() -> None:
    now = [0.0]
    receiver = FakeReceiver(make_view())
    watch = GeneratorWatch(receiver, 1, clock=lambda: now[0])
    for _ in range(10):
        watch.exhausted()
    assert receiver.reads == 1
    now[0] += REFRESH_S
    watch.exhausted()
    assert receiver.reads == 2


def test_the_reason_names_the_first_error_or_the_ends() -> None:
    failed = make_view("g1", connection="failed", first_error="out of memory")
    watch = GeneratorWatch(FakeReceiver(make_view("g0", connection="ended"), failed), 2)
    assert watch.reason() == "generator g1 failed first: out of memory"
    ended = GeneratorWatch(FakeReceiver(make_view("g0", connection="ended")), 1)
    assert ended.reason() == "generators: g0 ended"
    assert GeneratorWatch(FakeReceiver(), 1).reason() == "generators: none was ever heard of"


def test_waiting_for_all_generators_ends_with_the_last_hello(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = FakeReceiver(make_view("g0"))
    watch = GeneratorWatch(receiver, 2)
    monkeypatch.setattr(
        generator_watch.time, "sleep", lambda seconds: receiver.views.append(make_view("g1"))
    )
    assert watch.await_all_heard(timeout_s=60)
    assert not GeneratorWatch(FakeReceiver(), 1).await_all_heard(timeout_s=0.0)


@pytest.mark.parametrize(("fan_out", "expected"), [(0, 4), (1, 2), (2, 4), (9, 4)])
def test_generators_that_serve_a_trainer(fan_out: int, expected: int) -> None:
    config = Config(stream={"fan_out": fan_out})  # type: ignore[arg-type]
    for trainer in range(2):
        found = num_serving(config, num_generators=4, num_trainers=2, trainer=trainer)
        assert found == expected


class FakeMonitor:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.phases: list[str] = []

    def event(self, text: str) -> None:
        self.events.append(text)

    def update_console(self, step: int, scalars: object, *, phase: str, generators: object) -> None:
        self.phases.append(phase)


def test_a_shortage_names_the_generators_and_why() -> None:
    watch = GeneratorWatch(
        FakeReceiver(
            make_view("g0", state="loading"),
            make_view("g1", connection="silent", silent_for_s=42.4),
            make_view("g2", connection="failed", first_error="out of memory"),
        ),
        5,
    )
    named = "g0 loading, g1 silent for 42 s, g2 failed (out of memory), 2 not heard of yet"
    assert watch.shortage() == named
    assert GeneratorWatch(FakeReceiver(), 0).shortage() == "no generator was ever heard of"


def first_trainer_of(monitor: FakeMonitor, watch: GeneratorWatch) -> FirstTrainer:
    return FirstTrainer(
        Config(),
        monitor=monitor,  # type: ignore[arg-type]
        figures=Figures(Config(), Totals()),
        watch=watch,
        start_step=0,
    )


def test_starved_trainers_are_named_with_their_own_generators() -> None:
    monitor = FakeMonitor()
    watch = GeneratorWatch(FakeReceiver(make_view(state="loading")), 1)
    first = first_trainer_of(monitor, watch)
    decision = Decision(Action.WAIT, missing=(1, 2), longest_wait_s=30.0)
    first.show_waiting(3, decision)
    assert monitor.phases == ["waiting for groups (trainers 1, 2)"]
    first.name_shortage(decision, ["g1 silent for 31 s", "g2 loading"])
    assert monitor.events == [
        "trainers 1, 2 short of groups for 0:00:30; trainer 1: g1 silent for 31 s; "
        "trainer 2: g2 loading"
    ]


def test_a_run_that_waits_because_all_is_refused_says_so() -> None:
    """No step comes then, and no report of all trainers that could tell it."""
    monitor = FakeMonitor()
    refused = {"groups_rendered": 200.0, "gated/non_finite": 200.0}
    watch = GeneratorWatch(FakeReceiver(make_view(counters=refused)), 1)
    first = first_trainer_of(monitor, watch)
    for _ in range(3):
        first.show_waiting(0, Decision(Action.WAIT, missing=(0,), longest_wait_s=1.0))
    (line,) = monitor.events
    assert "100 % of the last 200 groups of g0 were refused" in line
    assert first.figures.refusals.lines == [line]


@pytest.mark.parametrize(("cost_s", "looks"), [(0.001, 20), (0.1, 2)])
def test_a_look_that_takes_long_is_taken_less_often(cost_s: float, looks: int) -> None:
    now_s, looked = 0.0, 0

    class Slow:
        def peers(self) -> list[PeerView]:
            nonlocal now_s, looked
            looked, now_s = looked + 1, now_s + cost_s
            return []

    watch = GeneratorWatch(Slow(), 1, clock=lambda: now_s)
    while now_s < 10.0:
        watch.peers()
        now_s += 0.01
    assert looked == pytest.approx(looks, abs=1)
