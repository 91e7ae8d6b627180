"""All peers a trainer has heard of, by generator, in bounded memory: pure bookkeeping.

A generator has one engine and one supervisor at a time. A newer start of either replaces the older,
whose late messages still find it; once the next one comes, what it counted is added to its
generator's past and the record goes. So a month of restarts costs three records a role, and a
generator that comes back under its own name goes on with its own counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from online_synclr.names_kept import MAX_NAMES
from online_synclr.stream.keys import RANKS, admits
from online_synclr.stream.messages import MAX_GENERATORS, Hello
from online_synclr.stream.peers import Peer, PeerView, fold, view_generator

MAX_GENERATORS_NAMED: Final = MAX_NAMES
MAX_GONE_NAMED: Final = 256
"""Of those that joined and left again so many keep a record: each costs every report its part."""

OTHERS: Final = "(others)"
"""Name of the record of all generators that were too many to keep by name; none can have it."""

MAX_RETIRED: Final = 16384
"""Names of replaced connections that are remembered, so that none of them is let in again."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new peer. `replaced`: whose place it takes; `forgotten`: peers that have no record now."""

    peer: Peer
    replaced: list[bytes]
    forgotten: list[Peer]


@dataclass(slots=True)
class _Generator:
    past: dict[str, Peer] = field(default_factory=dict)
    """What peers counted that have no record of their own any more, by role."""
    peers: dict[bytes, Peer] = field(default_factory=dict)


class PeerBook:
    """Peers by identity (`messages.peer_identity`) and by generator."""

    def __init__(self) -> None:
        self._generators: dict[str, _Generator] = {}
        self._peers: dict[bytes, Peer] = {}
        self._retired: dict[bytes, None] = {}

    def __iter__(self) -> Iterator[tuple[bytes, Peer]]:
        """Identity and peer, of those that have a record."""
        return iter(self._peers.items())

    def get(self, identity: bytes) -> Peer | None:
        """The peer of that identity, if it has a record."""
        return self._peers.get(identity)

    def replaced(self, identity: bytes) -> bool:
        """Whether a newer start of the same generator and role has joined since."""
        peer = self._peers.get(identity)
        return identity in self._retired or (peer is not None and peer.replaced)

    def outdated(self, hello: Hello) -> bool:
        """Whether this is the engine of a place that its generator has left for a newer one.

        Its supervisor's connection comes first, and has the place's number for its stream.
        """
        place = hello.stream % MAX_GENERATORS
        return hello.role == "engine" and any(
            peer.hello.role == "control" and not peer.replaced and peer.hello.stream > place
            for _, peer in self.of_generator(hello.generator_id)
        )

    def has_room(self, hello: Hello) -> bool:
        """Whether one more generator of that name can be kept."""
        return (
            hello.generator_id in self._generators
            or admits(RANKS, hello.generator_id)
            or len(self._generators) < MAX_GENERATORS_NAMED
            or bool(self._gone())
        )

    def add(self, identity: bytes, hello: Hello, now_s: float) -> Arrival:
        """Make a record; the caller ends the leases of who is replaced."""
        forgotten = [] if hello.generator_id in self._generators else self._make_room()
        generator = self._generators.setdefault(hello.generator_id, _Generator())
        replaced = []
        for other_identity, other in list(generator.peers.items()):
            if other.hello.role != hello.role:
                continue
            if other.replaced:
                self._fold(generator, other_identity, other)
                forgotten.append(other)
            else:
                other.replaced = True
                replaced.append(other_identity)
        peer = generator.peers[identity] = self._peers[identity] = Peer(hello, now_s)
        return Arrival(peer, replaced, forgotten)

    def of_generator(self, generator_id: str) -> list[tuple[bytes, Peer]]:
        """The peers of one generator."""
        generator = self._generators.get(generator_id)
        return [] if generator is None else list(generator.peers.items())

    def records(self) -> Iterator[Peer]:
        """Every record whose counts add up to the whole, the past ones included."""
        for generator in self._generators.values():
            yield from generator.past.values()
            yield from generator.peers.values()

    def views(self, now_s: float) -> list[PeerView]:
        """One view a generator, in order of first appearance."""
        return [
            view_generator(name, [*of.past.values(), *of.peers.values()], now_s)
            for name, of in self._generators.items()
        ]

    def _make_room(self) -> list[Peer]:
        """Where there are too many names, add one to `OTHERS`: who left first; its peers."""
        gone = self._gone()
        full = len(self._generators) >= MAX_GENERATORS_NAMED or len(gone) > MAX_GONE_NAMED
        if not gone or not full:
            return []
        generator = self._generators.pop(min(gone, key=lambda name: gone[name]))
        forgotten = list(generator.peers.items())
        for identity, peer in forgotten:
            self._fold(generator, identity, peer)
        others = self._generators.setdefault(OTHERS, _Generator())
        for role, past in generator.past.items():
            known = others.past.get(role)
            others.past[role] = fold([past] if known is None else [known, past])
        return [peer for _, peer in forgotten]

    def _gone(self) -> dict[str, tuple[bool, float]]:
        """Whether those that are gone fell silent, and may come back, and when each was last heard.

        Torchrun's own are not among them: they are always remembered by name.
        """
        return {
            name: (
                any(peer.connection == "silent" for peer in of.peers.values()),
                max(peer.last_heard_s for peer in of.peers.values()),
            )
            for name, of in self._generators.items()
            if of.peers
            and all(peer.connection != "alive" for peer in of.peers.values())
            and not admits(RANKS, name)
        }

    def _fold(self, generator: _Generator, identity: bytes, peer: Peer) -> None:
        role = peer.hello.role
        past = generator.past.get(role)
        generator.past[role] = fold([peer] if past is None else [past, peer])
        del generator.peers[identity], self._peers[identity]
        self._retired[identity] = None
        while len(self._retired) > MAX_RETIRED:
            del self._retired[next(iter(self._retired))]
