"""What this trainer knows of the generators: whether any is left, and why not."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from online_synclr.config import Config
from online_synclr.monitor.console_state import GeneratorLine
from online_synclr.stream.errors import StreamError
from online_synclr.stream.fan_out import choose_trainers
from online_synclr.stream.keys import RANKS, admits
from online_synclr.stream.peers import LEDGER_USED_UP, PeerView

POLL_S = 0.05
GONE_SILENCES = 10
"""A generator silent for so many times `stream.silence_s` counts as gone: a network that pauses
must not end a run, and the processes of torchrun's generators are torchrun's to watch."""

REFRESH_S = 0.5
LONGEST_REFRESH_S = 5.0
MAX_SHARE = 0.02
"""Of its thread's time that the watch takes at most: with many generators it looks less often."""


class PeerSource(Protocol):
    """The part of the receiver that the watch needs."""

    def peers(self) -> list[PeerView]:
        """One view a generator. Raises StreamError once its thread has failed."""
        ...


class GeneratorWatch:
    """The receiver's view of the generators; nothing here waits but `await_all_heard`.

    Args:
        receiver: started.
        num_expected: generators launched with the run that serve this trainer.
        others_may_join: so that there is never a last one.
        gone_after_s: silence after which a generator is not waited for any more.
        clock: seconds, monotonic; views are read anew after `REFRESH_S`.
    """

    def __init__(
        self,
        receiver: PeerSource,
        num_expected: int,
        *,
        others_may_join: bool = False,
        gone_after_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receiver = receiver
        self._num_expected = num_expected
        self._others_may_join = others_may_join
        self._gone_after_s = gone_after_s
        self._clock = clock
        self._next_look_s = clock()
        self._peers: list[PeerView] = []
        self._exhausted = False
        self.failure: str | None = None
        """Why the receiver itself stopped, once it has."""

    def peers(self, *, fresh: bool = False) -> list[PeerView]:
        """One view a generator, looked at now and then; the last ones once the receiver failed."""
        now_s = self._clock()
        if fresh or now_s >= self._next_look_s:
            self._look()
            took_s = self._clock() - now_s
            # Within bounds: a look can take long because this process stood still.
            pause_s = min(max(REFRESH_S, took_s / MAX_SHARE), LONGEST_REFRESH_S)
            self._next_look_s = now_s + pause_s
        return self._peers

    def _look(self) -> None:
        try:
            self._peers = self._receiver.peers()
        except StreamError as error:
            self.failure = str(error)
        heard = bool(self._peers) and len(_launched(self._peers)) >= self._num_expected
        self._exhausted = heard and all(map(self._is_gone, self._peers))

    def failed(self) -> bool:
        """Whether the receiver's thread is dead, so that no group will ever arrive."""
        self.peers()
        return self.failure is not None

    def exhausted(self) -> bool:
        """Whether every generator that serves this trainer was heard of and none will send again.

        A supervisor that is about to start its engine anew is alive, and so is its generator.
        """
        if self._others_may_join:
            return False
        self.peers()
        return self._exhausted

    def ledger_used_up(self) -> bool:
        """Whether each of torchrun's generators has rendered its part of a ledger, and is done.

        `captions.backend: ledger`; nothing failed then, there is just no more to train on.
        """
        peers = _launched(self.peers(fresh=True))
        done = [
            LEDGER_USED_UP in peer.counters and (peer.connection == "ended" or peer.state == "idle")
            for peer in peers
        ]
        return bool(done) and all(done)

    def reason(self) -> str:
        """Why there is no generator left: what ended the first of them for good, or their ends.

        One that failed and will be back is named so, for there may be no other reason.
        """
        if self.ledger_used_up():
            return "the ledger that it trains from (captions.ledger) is used up"
        peers = self.peers()
        gone = [peer for peer in peers if self._is_gone(peer) and _last_error(peer)]
        if gone:
            first = min(gone, key=lambda peer: peer.failures[-1].at_s if peer.failures else 0.0)
            return f"generator {first.generator_id} failed first: {_last_error(first)}"
        return f"generators: {', '.join(map(_standing, peers)) or 'none was ever heard of'}"

    def shortage(self) -> str:
        """The generators that serve this trainer, each with why no groups of it are here."""
        peers = self.peers()
        named = [_why_short(peer) for peer in peers]
        absent = self._num_expected - len(_launched(peers))
        if absent > 0:
            named.append(f"{absent} not heard of yet")
        return ", ".join(named) or "no generator was ever heard of"

    def lines(self) -> list[GeneratorLine]:
        """One line a generator, for the console."""
        return [_line(peer) for peer in self.peers()]

    def await_all_heard(self, timeout_s: float) -> bool:
        """Wait until every generator launched with the run has connected, or the time is over.

        A generator that has not connected yet cannot be told that the run is over; its HELLO
        unblocks this.
        """
        deadline = time.monotonic() + timeout_s
        while len(_launched(self.peers(fresh=True))) < self._num_expected:
            if self.failure is not None or time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _is_gone(self, peer: PeerView) -> bool:
        """Whether a generator will not send again, as far as can be told."""
        if peer.connection == "silent":
            return peer.silent_for_s >= self._gone_after_s
        return peer.connection != "alive" or peer.state in ("failed", "idle")


def _launched(peers: Sequence[PeerView]) -> list[PeerView]:
    """Those that torchrun has started: the others come and go."""
    return [peer for peer in peers if admits(RANKS, peer.generator_id)]


def num_serving(config: Config, *, num_generators: int, num_trainers: int, trainer: int) -> int:
    """How many of the generators launched with the run serve one trainer (`stream.fan_out`)."""
    fan_out = config.stream.fan_out
    return sum(
        trainer in choose_trainers(num_trainers, fan_out, position)
        for position in range(num_generators)
    )


def _last_error(peer: PeerView) -> str:
    """What ended it last: the word of a generator that gave up names its first failure, too."""
    return peer.failures[-1].message if peer.failures else peer.first_error or ""


def _standing(peer: PeerView) -> str:
    state = peer.state if peer.connection == "alive" else peer.connection
    error = _last_error(peer) if state == "loading" else ""
    return f"{peer.generator_id} {state}" + (f" after: {error}" if error else "")


def _why_short(peer: PeerView) -> str:
    if peer.connection == "silent":
        return f"{peer.generator_id} silent for {peer.silent_for_s:.0f} s"
    state = peer.state if peer.connection == "alive" else peer.connection
    error = _last_error(peer)
    return f"{peer.generator_id} {state}" + (f" ({error})" if error else "")


def _line(peer: PeerView) -> GeneratorLine:
    counters = peer.counters
    return GeneratorLine(
        generator=peer.generator_id,
        state=peer.state if peer.connection == "alive" else peer.connection,
        connected=peer.connection == "alive",
        images=int(counters.get("images_rendered", 0)),
        captions=int(counters.get("captions_accepted", 0)),
        restarts=int(counters.get("restarts", 0)),
        error=_last_error(peer),
    )
