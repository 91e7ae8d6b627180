"""Whether any generator is left, as a trainer tells it, and how a shortage is named."""

from typing import Any

import pytest

from online_synclr.config import Config
from online_synclr.stream.errors import StreamError
from online_synclr.stream.peers import LEDGER_USED_UP, PeerView
from trainer import first_trainer, generator_watch
from trainer.first_trainer import FirstTrainer
from trainer.generator_watch import REFRESH_S, GeneratorWatch, num_serving
from trainer.vote import Action, Decision


def make_view(generator_id: str = "g0", **changes: Any) -> PeerView:
    values: dict[str, Any] = {
        "generator_id": generator_id,
        "connection": "alive",
        "state": "running",
        "counters": {},
        "first_error": None,
        "silent_for_s": 0.0,
        "sent": 0,
        "received": 0,
        "discarded": 0,
        "lost": 0,
    }
    return PeerView(**{**values, **changes})


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
    {"connection": "silent"},
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


def test_a_starved_trainer_is_named_once_every_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(first_trainer.time, "monotonic", lambda: now[0])
    monitor = FakeMonitor()
    watch = GeneratorWatch(FakeReceiver(make_view(state="loading")), 1)
    unused: Any = None
    first = FirstTrainer(
        Config(),
        monitor=monitor,  # type: ignore[arg-type]
        figures=unused,
        probe=unused,
        backbone=unused,
        watch=watch,
        start_step=0,
    )
    starve_s = Config().trainer.starve_s
    for second in range(1, 76):
        now[0] = float(second)
        first.show_waiting(3, Decision(Action.WAIT, missing=(1, 2), longest_wait_s=now[0]))
    assert len(monitor.phases) == 75
    assert monitor.phases[0] == "waiting for groups (trainers 1, 2)"
    assert len(monitor.events) == 2, f"at {starve_s} s and {2 * starve_s} s"
    assert monitor.events[0].startswith("trainers 1, 2 short of groups for 0:00:30; ")
