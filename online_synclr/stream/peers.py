"""Who a trainer has heard of, and what became of each: pure bookkeeping.

A peer is one connection of one incarnation of a generator. It is alive, or it ended (BYE), failed
(ERROR), or fell silent: three different ends, told apart everywhere. For every peer, at all times,

    sent = received + discarded + lost

where sent is the largest of what the peer last reported, what its sequence numbers imply and what
arrived: messages of one connection keep their order, so what is missing then is lost.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from online_synclr.stream.failures import Failure
from online_synclr.stream.messages import MAX_COUNTERS, Hello, PeerState

Connection = Literal["alive", "ended", "failed", "silent"]


@dataclass(slots=True)
class Peer:
    """One connection. `last_heard_s` is on the receiver's clock; `route`: where to answer."""

    hello: Hello
    last_heard_s: float
    route: bytes = b""
    withdrawn_since_s: float | None = None
    connection: Connection = "alive"
    state: PeerState = "loading"
    replaced: bool = False
    counters: dict[str, float] = field(default_factory=dict)
    first_error: str | None = None
    received: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    reported_sent: int = 0
    next_sequence: int = 0
    granted: int = 0
    """Credits issued to it so far: more than these it cannot have sent under."""
    gave_up: bool = False

    @property
    def arrived(self) -> int:
        """Groups that reached this trainer, discarded ones included."""
        return self.received + self.discarded.total()

    @property
    def sent(self) -> int:
        """Groups this peer is known to have sent here; what it says is believed within reason."""
        claimed = max(self.reported_sent, self.next_sequence)
        return max(self.arrived, min(claimed, self.arrived + self.granted))

    @property
    def lost(self) -> int:
        """Groups sent that will not arrive."""
        return self.sent - self.arrived


@dataclass(frozen=True, slots=True)
class PeerView:
    """One generator, over all its connections and restarts; counts are of this trainer.

    `counters` are cumulative: summed over the generator's engines; what only its supervisors
    report is summed over these; names ending in `_bytes` are of the newest report. `fingerprint`
    names the models of the newest engine, empty before its HELLO. `failures`: its bad ends, oldest
    first, bounded; their `at_s` is on the clock that reads `seen_at_s` now.
    """

    generator_id: str
    connection: Connection
    state: PeerState
    counters: dict[str, float]
    first_error: str | None
    silent_for_s: float
    sent: int
    received: int
    discarded: int
    lost: int
    fingerprint: str = ""
    failures: tuple[Failure, ...] = ()
    seen_at_s: float = 0.0


LEDGER_USED_UP = "ledger_used_up"
"""Counter of a generator that has rendered its whole part of a ledger; others have none."""


@dataclass(frozen=True, slots=True)
class ReceiverCounters:
    """Groups, cumulative: sent = received + lost + discarded; `discarded` by reason.

    Of all `messages` read, `taken` were taken in; the others are in `discarded` or in
    `malformed`: other messages dropped, by reason. `strangers`: connections not let in, by reason.
    """

    sent: int
    received: int
    lost: int
    discarded: dict[str, int]
    malformed: dict[str, int]
    credits_in_flight: int
    messages: int = 0
    taken: int = 0
    strangers: dict[str, int] = field(default_factory=dict)


def view_generator(generator_id: str, peers: list[Peer], now_s: float) -> PeerView:
    """One generator's view from its connections, oldest first (at least one)."""
    # The supervisor outlives its engines, so its word counts when both are gone; while any
    # connection is alive, so is the generator.
    alive = [peer for peer in peers if peer.connection == "alive"]
    speaking = max(alive or peers, key=lambda peer: peer.last_heard_s)
    engines = [peer for peer in alive if peer.hello.role == "engine"]
    spokesman = engines[-1] if engines else speaking
    errors = [peer.first_error for peer in peers if peer.first_error is not None]
    return PeerView(
        generator_id=generator_id,
        connection=spokesman.connection,
        state=spokesman.state,
        counters=_merge_counters(peers),
        first_error=errors[0] if errors else None,
        silent_for_s=now_s - speaking.last_heard_s,
        sent=sum(peer.sent for peer in peers),
        received=sum(peer.received for peer in peers),
        discarded=sum(peer.discarded.total() for peer in peers),
        lost=sum(peer.lost for peer in peers),
        fingerprint=_fingerprint(peers),
    )


def fold(peers: list[Peer]) -> Peer:
    """One record that counts what these have counted, oldest first (at least one, of one role)."""
    newest = peers[-1]
    errors = [peer.first_error for peer in peers if peer.first_error is not None]
    discarded: Counter[str] = Counter()
    for peer in peers:
        discarded.update(peer.discarded)
    return Peer(
        newest.hello,
        newest.last_heard_s,
        connection="silent",
        state=newest.state,
        replaced=True,
        counters=_sum_counters(peers),
        first_error=errors[0] if errors else None,
        received=sum(peer.received for peer in peers),
        discarded=discarded,
        reported_sent=sum(peer.sent for peer in peers),
        granted=sum(peer.sent for peer in peers),
    )


def _fingerprint(peers: list[Peer]) -> str:
    engines = [peer.hello.fingerprint for peer in peers if peer.hello.role == "engine"]
    return engines[-1] if engines else ""


def _merge_counters(peers: list[Peer]) -> dict[str, float]:
    engines = _sum_counters([peer for peer in peers if peer.hello.role == "engine"])
    supervisors = _sum_counters([peer for peer in peers if peer.hello.role == "control"])
    return {**supervisors, **engines}


def _sum_counters(peers: list[Peer]) -> dict[str, float]:
    if len(peers) == 1:
        return dict(peers[0].counters)
    summed: dict[str, float] = {}
    for peer in peers:
        for name, value in peer.counters.items():
            if name not in summed and len(summed) >= MAX_COUNTERS:
                continue
            gauge = name.endswith("_bytes")
            summed[name] = value if gauge else summed.get(name, 0.0) + value
    return summed
