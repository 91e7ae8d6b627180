"""How far the run is: from a trainer to its engines, at their greeting and at each change."""

import threading

import pytest

from generators.captioning import describe_shares
from online_synclr.stream.endpoints import ipc_endpoint
from online_synclr.stream.messages import Message, Progress, Welcome, peer_identity
from tests.stream_ends import receiving, sending
from tests.stream_helpers import FakeSink, make_hello
from tests.test_trainer_side import SILENCE_S, Bench

ENGINE, CONTROL = make_hello("g0"), make_hello("g0", role="control")
SOON, LATE = Progress(step=5, shares={"pets": 1.0}), Progress(step=9, shares={"cars": 1.0})


def welcomed(bench: Bench) -> Progress | None:
    (welcome, *_) = bench.say(ENGINE, ENGINE)
    assert isinstance(welcome, Welcome)
    return welcome.progress


def test_a_greeting_is_answered_with_what_is_known() -> None:
    bench = Bench()
    assert welcomed(bench) is None, "it follows"
    bench.side.announce_progress(SOON)
    assert welcomed(bench) == SOON


def test_a_change_is_told_to_live_engines_only() -> None:
    bench = Bench()
    gone = make_hello("g1")
    for hello in (ENGINE, CONTROL, gone):
        bench.join(hello)
    bench.pass_time(0.6 * SILENCE_S)
    for hello in (ENGINE, CONTROL):
        bench.join(hello)
    bench.pass_time(0.6 * SILENCE_S)
    told = [(outgoing.route, outgoing.message) for outgoing in bench.side.announce_progress(SOON)]
    assert told == [(peer_identity(ENGINE), SOON)]


def test_a_full_connection_is_told_the_newest_word_later() -> None:
    bench = Bench(room=0)
    bench.join(ENGINE)
    (old,) = bench.side.announce_progress(SOON)
    bench.side.on_unsent(old, unreachable=False)
    (again,) = bench.side.issue_credits()
    assert again.message == SOON
    bench.side.on_unsent(again, unreachable=False)
    bench.side.announce_progress(LATE)
    assert bench.side.issue_credits() == [], "the newer word was taken"


class Heard:
    """What a sender was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self._changed = threading.Condition()

    def __call__(self, progress: Progress) -> None:
        with self._changed:
            self.said.append(progress)
            self._changed.notify_all()

    def has(self, progress: Progress) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: progress in self.said, 60.0)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"cars", "pets"}, "from step 9: cars 0.25, pets 0.75"),
        ({"cars", "food"}, "lacks pets; only this generator's bank has food, now unused"),
        ({"food"}, "has none of these and keeps its own shares"),
    ],
)
def test_an_engine_says_how_its_own_bank_fits(own: set[str], words: str) -> None:
    progress = Progress(step=9, shares={"pets": 0.75, "cars": 0.25})
    assert describe_shares(progress, own).endswith(words)


def test_a_sender_hears_each_change_once_and_nothing_older() -> None:
    heard = Heard()
    with (
        receiving(FakeSink(), ipc_endpoint(), progress=None) as receiver,
        sending(receiver.address, ENGINE, on_progress=heard),
    ):
        receiver.announce_progress(LATE)
        assert heard.has(LATE)
        receiver.announce_progress(SOON)
        newest = Progress(step=10)
        receiver.announce_progress(newest)
        assert heard.has(newest)
    assert heard.said == [LATE, newest]
