"""What a trainer answers to each message: a state machine without sockets or threads.

The receiver feeds it frames and the time, and sends what it returns. Rules:
  - Nothing received can raise: what is not a message of a known peer is dropped and counted.
  - A group is inserted only under a credit that is still leased to its sender. Everything else
    that looks like a group is discarded, counted once, by reason.
  - Its images are written where the sink wants them, from the message or from the sender's ring.
  - A connection is whoever its HELLO says, if its key permits. The ROUTER's own routing id of a
    connection, its *route*, is only where to answer: nobody can speak on another's.
  - A peer that speaks after it was counted as dead is welcomed into a new lease period; what it
    sends under the old one is late.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np

from online_synclr.stream.admission import PlaceNumbers, Terms
from online_synclr.stream.conduct import MAX_FAULTS, Conduct
from online_synclr.stream.credits import CreditBook
from online_synclr.stream.ends import Ends
from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.frames import Buffer, unpack
from online_synclr.stream.group import Group, Recipe
from online_synclr.stream.messages import (
    PROTOCOL_VERSION,
    Bye,
    ByeAck,
    Credit,
    End,
    Error,
    FromTrainer,
    GroupHeader,
    Hello,
    InRing,
    Join,
    Message,
    Reject,
    Status,
    Ticket,
    Welcome,
    peer_identity,
)
from online_synclr.stream.payload import JpegCodec, PayloadCodec, RawCodec
from online_synclr.stream.peer_book import MAX_GENERATORS_NAMED, PeerBook
from online_synclr.stream.peers import Connection, Peer, PeerView, ReceiverCounters
from online_synclr.stream.plain_text import plain
from online_synclr.stream.rings import Rings
from online_synclr.stream.sink import GroupSink

CHECKS_PER_SILENCE: Final = 8
WITHDRAWN_S: Final = 5.0
"""A key file that is being replaced is missing for a moment."""

_REPLACED: Final = (
    "a newer start of generator {!r} has joined; give every generator a name of its own"
)
_NO_NUMBER: Final = (
    "this attempt has given all its numbers to generators; start the run again, it resumes"
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send on a route."""

    route: bytes
    message: Message


class _Arriving(NamedTuple):
    """A group whose images are still to be fetched."""

    recipe: Recipe
    sequence: int
    lease: int


class TrainerSide:
    """State of one trainer's end of the stream; not thread-safe.

    Args:
        terms: generators that do not agree with them are refused.
        sink: takes the groups.
        credits_per_generator: most groups one connection may have in flight.
        silence_s: a peer not heard for this long is counted as silent.
        trainer_index: of this trainer; WELCOME tells it, with `addresses` of all trainers.
        rings: shared memory for generators that can reach it; none: all groups are sent.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        sink: GroupSink,
        credits_per_generator: int,
        silence_s: float,
        trainer_index: int = 0,
        rings: Rings | None = None,
    ) -> None:
        self._terms = terms
        self._sink = sink
        self._rings = rings
        self._silence_s = silence_s
        self._trainer_index = trainer_index
        self.addresses: list[str] = []
        self.complete = False
        """Whether `addresses` has all trainers: nobody can be given a place before."""
        self._numbers = PlaceNumbers(trainer_index)
        self._credits: CreditBook[bytes] = CreditBook(credits_per_generator)
        self._peers = PeerBook()
        self._routes: dict[bytes, bytes] = {}
        self._conduct = Conduct()
        self._ends = Ends(self._peers)
        self._malformed: Counter[str] = Counter()
        self._messages = 0
        self._taken = 0
        self._codecs: dict[str, PayloadCodec] = {"raw": RawCodec(), "jpeg": JpegCodec()}
        self._last_check_s: float | None = None
        self._end: End | None = None

    @property
    def live_engines(self) -> int:
        """Connections that may still send groups."""
        return sum(
            peer.connection == "alive" and peer.hello.role == "engine" for _, peer in self._peers
        )

    @property
    def num_taken(self) -> int:
        """Messages taken in so far, each group counted as one."""
        return self._taken

    @property
    def check_interval_s(self) -> float:
        """How often `check_silence` is due."""
        return self._silence_s / CHECKS_PER_SILENCE

    def on_frames(
        self, route: bytes, frames: Sequence[Buffer], now_s: float, key_name: str | None = None
    ) -> list[Outgoing]:
        """Take one message in; what to send in answer.

        `key_name`: of the connection's key; empty: it was taken back; None: there are no keys.
        """
        self._messages += 1
        if key_name == "":
            return self._on_withdrawn(route, now_s)
        if self._conduct.cut_off(route):
            self._malformed["cut_off"] += 1
            return []
        identity = self._routes.get(route, b"")
        peer = self._peers.get(identity)
        try:
            message, payload = unpack(frames)
        except MalformedMessage as error:
            answer = self._on_malformed(route, identity, peer, len(frames), error)
            return answer + self._blame(route)
        if isinstance(message, Hello):
            return self._on_hello(route, message, now_s, key_name)
        if isinstance(message, Join):
            return self._on_join(route, message, key_name)
        if peer is None:
            # No fault: the last words on a connection that was replaced arrive so, too.
            self._malformed["unknown_peer"] += 1
            return []
        if isinstance(message, FromTrainer):
            self._malformed["unexpected"] += 1
            return self._blame(route)
        self._conduct.good(route)
        peer.last_heard_s, peer.withdrawn_since_s = now_s, None
        if isinstance(message, InRing):
            self._on_groups_in_ring(identity, peer, message)
            answer = self._revive(identity, peer)
        elif isinstance(message, GroupHeader):
            self._on_group_sent(identity, peer, message, payload)
            answer = self._revive(identity, peer)
        else:
            answer = self._on_word(identity, peer, message)
        if peer.replaced and peer.connection == "silent":
            # It lives on: another machine has joined under its name.
            answer.append(Outgoing(route, Reject(reason=_REPLACED.format(peer.hello.generator_id))))
        return answer

    def issue_credits(self) -> list[Outgoing]:
        """Ask for as many groups as the sink has room for, fairly among live engines."""
        out: list[Outgoing] = []
        while True:
            # The second round tells the sink what is now in flight, so that it makes room for it.
            wanted = self._sink.credits_to_issue(self._credits.in_flight)
            grants = self._credits.assign(wanted) if self._end is None else {}
            if not grants:
                return out
            for identity, num_groups in grants.items():
                lease = self._credits.lease_of(identity) or 0
                credit = Credit(num_groups=num_groups, lease=lease)
                peer = self._peers.get(identity)
                assert peer is not None, "a lease is closed before its peer's record goes"
                peer.granted += num_groups
                if self._rings is not None:
                    self._rings.grant(identity, num_groups)
                out.append(Outgoing(peer.route, credit))

    def on_unsent(self, outgoing: Outgoing, *, unreachable: bool) -> None:
        """The message could not be sent: its credits, or all of a vanished peer's, return."""
        identity = self._routes.get(outgoing.route, b"")
        if unreachable:
            self._reclaim(identity)
        elif isinstance(outgoing.message, Credit):
            taken = self._credits.withdraw(identity, outgoing.message.num_groups)
            self._sink.reclaim(taken)
            if self._rings is not None:
                self._rings.grant(identity, -taken)

    def check_silence(self, now_s: float) -> None:
        """Count peers not heard for `silence_s` as silent; call after reading all that waits."""
        absent_s = 0.0 if self._last_check_s is None else now_s - self._last_check_s
        self._last_check_s = now_s
        if absent_s > 2 * self.check_interval_s:
            # This process itself stood still; nobody can be blamed for that time.
            for _, peer in self._peers:
                peer.last_heard_s = min(now_s, peer.last_heard_s + absent_s)
        fell_silent = []
        for identity, peer in self._peers:
            if peer.connection == "alive" and now_s - peer.last_heard_s > self._silence_s:
                self._leave(identity, peer, "silent")
                fell_silent.append(peer)
        self._ends.on_silence(fell_silent, now_s)

    def announce_end(self, reason: str, *, final: bool = True) -> list[Outgoing]:
        """Ask everyone to stop; no credits from now on."""
        self._end = End(reason=reason, final=final)
        return [
            Outgoing(peer.route, self._end) for _, peer in self._peers if peer.connection == "alive"
        ]

    def views(self, now_s: float) -> list[PeerView]:
        """One view a generator, in order of first appearance."""
        return [
            replace(view, failures=self._ends.of(view.generator_id), seen_at_s=now_s)
            for view in self._peers.views(now_s)
        ]

    def counters(self) -> ReceiverCounters:
        """Totals over all peers."""
        peers = list(self._peers.records())
        discarded: Counter[str] = Counter()
        for peer in peers:
            discarded.update(peer.discarded)
        return ReceiverCounters(
            sent=sum(peer.sent for peer in peers),
            received=sum(peer.received for peer in peers),
            lost=sum(peer.lost for peer in peers),
            discarded=dict(discarded),
            malformed=dict(self._malformed),
            messages=self._messages,
            taken=self._taken,
            credits_in_flight=self._credits.in_flight,
        )

    def _on_malformed(
        self,
        route: bytes,
        identity: bytes,
        peer: Peer | None,
        num_frames: int,
        error: MalformedMessage,
    ) -> list[Outgoing]:
        if peer is not None and num_frames == 2:
            # A group with a broken header or payload: it used up its sender's credit.
            if self._credits.spend(identity):
                self._sink.reclaim(1)
            peer.discarded[error.reason] += 1
        else:
            self._malformed[error.reason] += 1
        if error.reason == "protocol_version":
            reason = f"protocol version {error.detail}, this trainer speaks {PROTOCOL_VERSION}"
            return [Outgoing(route, Reject(reason=f"{reason}; install the same version"))]
        return []

    def _on_withdrawn(self, route: bytes, now_s: float) -> list[Outgoing]:
        """A message under a key that does not count: unread, credits back, and soon told so."""
        self._malformed["key_withdrawn"] += 1
        identity = self._routes.get(route, b"")
        peer = self._peers.get(identity)
        if peer is None:
            return []
        if peer.connection == "alive":
            # Should the key count again, the next message opens a new lease period.
            self._leave(identity, peer, "silent")
        if peer.withdrawn_since_s is None:
            peer.withdrawn_since_s = now_s
        if now_s - peer.withdrawn_since_s < WITHDRAWN_S:
            return []
        return [Outgoing(route, Reject(reason="its key was taken back"))]

    def _blame(self, route: bytes) -> list[Outgoing]:
        """Count a fault of a connection; the one too many cuts it off, with word of why."""
        if not self._conduct.bad(route):
            return []
        reason = f"cut off after {MAX_FAULTS} malformed messages, more than good ones"
        identity = self._routes.pop(route, b"")
        peer = self._peers.get(identity)
        if peer is not None:
            peer.first_error = peer.first_error or reason
            self._ends.on_error(peer, reason, peer.hello.stream)
            self._leave(identity, peer, "failed")
        return [Outgoing(route, Reject(reason=reason))]

    def _on_hello(
        self, route: bytes, hello: Hello, now_s: float, key_name: str | None
    ) -> list[Outgoing]:
        identity = peer_identity(hello)
        reason = self._refusal(route, identity, hello, key_name)
        if reason is not None:
            self._malformed["hello_refused"] += 1
            return [Outgoing(route, Reject(reason=reason)), *self._blame(route)]
        over = self._terms.attempt_over(hello)
        if over is not None:
            # No fault: it was there before this attempt and cannot know better.
            self._malformed["hello_of_other_attempt"] += 1
            return [Outgoing(route, Reject(reason=over, rejoin=True))]
        peer = self._peers.get(identity)
        if peer is not None and hello.connection < peer.hello.connection:
            # Read late: it was said on a connection that this generator has left since.
            self._malformed["stale_hello"] += 1
            return []
        if peer is None:
            peer = self._arrive(identity, hello, now_s)
        peer.hello = msgspec.structs.replace(hello, fingerprint=plain(hello.fingerprint))
        # A peer has one route: what still comes on a broken connection's is nobody's.
        self._routes.pop(peer.route, None)
        self._routes[route] = identity
        peer.route = route
        self._taken += 1
        peer.connection, peer.last_heard_s = "alive", now_s
        return self._welcome(identity, peer)

    def _welcome(self, identity: bytes, peer: Peer) -> list[Outgoing]:
        lease, ring = 0, None
        if peer.hello.role == "engine":
            lease, reclaimed = self._credits.open(identity)
            self._sink.reclaim(reclaimed)
            ring = self._rings.open(identity, peer.hello) if self._rings is not None else None
        welcome = Welcome(
            trainer_index=self._trainer_index, addresses=self.addresses, lease=lease, ring=ring
        )
        out = [Outgoing(peer.route, welcome)]
        if self._end is not None:
            out.append(Outgoing(peer.route, self._end))
        return out

    def _on_join(self, route: bytes, join: Join, key_name: str | None) -> list[Outgoing]:
        """Give a place in this attempt, or say why not; nothing is kept of who asked."""
        reason = self._terms.refusal(join, key_name)
        if reason is not None:
            self._malformed["join_refused"] += 1
            return [Outgoing(route, Reject(reason=reason)), *self._blame(route)]
        if self._end is not None:
            return [Outgoing(route, self._end)]
        if not self.complete:
            self._malformed["join_too_early"] += 1
            return []
        place = self._numbers.next(
            num_launched=self._terms.num_launched, num_trainers=len(self.addresses)
        )
        if place is None:
            self._malformed["join_refused"] += 1
            return [Outgoing(route, Reject(reason=_NO_NUMBER))]
        self._taken += 1
        ticket = Ticket(
            run_id=self._terms.run_id,
            incarnation=self._terms.incarnation or 0,
            number=place[0],
            position=place[1],
            addresses=self.addresses,
            image_shape=self._terms.image_shape,
        )
        return [Outgoing(route, ticket)]

    def _refusal(
        self, route: bytes, identity: bytes, hello: Hello, key_name: str | None
    ) -> str | None:
        reason = self._terms.refusal(hello, key_name)
        if reason is None and self._routes.get(route, identity) != identity:
            reason = "this connection has introduced itself under another name before"
        if reason is None and (self._peers.replaced(identity) or self._peers.outdated(hello)):
            reason = _REPLACED.format(hello.generator_id)
        if reason is None and not self._peers.has_room(hello):
            reason = (
                f"generators of {MAX_GENERATORS_NAMED} names are here already; let one of them go "
                "first"
            )
        return reason

    def _arrive(self, identity: bytes, hello: Hello, now_s: float) -> Peer:
        arrival = self._peers.add(identity, hello, now_s)
        for older in arrival.replaced:
            # A generator has one engine at a time: a newer start means that the older one is gone.
            peer = self._peers.get(older)
            if peer is not None and peer.connection == "alive":
                self._leave(older, peer, "silent")
        for gone in arrival.forgotten:
            self._routes.pop(gone.route, None)
        return arrival.peer

    def _on_group_sent(
        self, identity: bytes, peer: Peer, header: GroupHeader, payload: Buffer
    ) -> None:
        fault = "shape" if header.shape != self._terms.image_shape else None
        arrived = self._on_group(
            identity,
            peer,
            _Arriving(header.recipe, header.sequence, header.lease),
            fault,
            lambda images_mchw: self._codecs[header.encoding].decode(payload, images_mchw),
        )
        if arrived and self._rings is not None:
            self._rings.not_used(identity)

    def _on_groups_in_ring(self, identity: bytes, peer: Peer, message: InRing) -> None:
        # Each group counts as a message: so many more were told of at once.
        self._messages += len(message.recipes) - 1
        for index, recipe in enumerate(message.recipes):
            self._on_group(
                identity,
                peer,
                _Arriving(recipe, message.sequence + index, message.lease),
                None if recipe.num_images == self._terms.image_shape[0] else "shape",
                partial(self._read_ring, identity, message.position + index),
            )

    def _read_ring(self, identity: bytes, position: int, images_mchw: np.ndarray) -> None:
        if self._rings is None:
            raise MalformedMessage("slot", "no ring")
        self._rings.read(identity, position, images_mchw)

    def _on_group(
        self,
        identity: bytes,
        peer: Peer,
        group: _Arriving,
        fault: str | None,
        land: Callable[[np.ndarray], None],
    ) -> bool:
        """Insert it or count why not; whether it was inserted. `land` writes its images."""
        leased = self._credits.spend(identity, group.lease)
        fault = fault or _fault_of(peer, group)
        peer.next_sequence = max(peer.next_sequence, group.sequence + 1)
        if fault is None and leased:
            images_mchw = self._sink.place(self._terms.image_shape)
            try:
                land(images_mchw)
            except MalformedMessage as error:
                fault = error.reason
            else:
                self._sink.insert(Group(group.recipe, images_mchw))
                peer.received += 1
                self._taken += 1
                return True
        if leased:
            self._sink.reclaim(1)
        peer.discarded[fault or "late"] += 1
        return False

    def _on_word(self, identity: bytes, peer: Peer, message: Message) -> list[Outgoing]:
        self._taken += 1
        if isinstance(message, Status):
            peer.state, peer.counters = message.state, message.counters
            peer.reported_sent = max(peer.reported_sent, message.sent)
            return self._revive(identity, peer)
        if isinstance(message, Bye):
            peer.counters = message.counters
            peer.reported_sent = max(peer.reported_sent, message.sent)
            # Who failed says BYE too; that does not make it a clean end.
            failed = peer.connection == "failed" or peer.gave_up
            self._leave(identity, peer, "failed" if failed else "ended")
            return [Outgoing(peer.route, ByeAck())]
        if isinstance(message, Error):
            self._on_error(identity, peer, message)
            return []
        return []

    def _on_error(self, identity: bytes, peer: Peer, error: Error) -> None:
        message = plain(error.message)
        if peer.first_error is None:
            peer.first_error = message
        self._ends.on_error(peer, message, error.stream)
        if peer.hello.role == "engine":
            self._leave(identity, peer, "failed")
            return
        # It still listens, so that END reaches it.
        peer.gave_up = peer.gave_up or error.stream is None
        for other_identity, other in self._peers.of_generator(peer.hello.generator_id):
            named = error.stream in (None, other.hello.stream)
            if named and other.hello.role == "engine" and other.connection == "alive":
                self._leave(other_identity, other, "failed")

    def _revive(self, identity: bytes, peer: Peer) -> list[Outgoing]:
        if peer.connection != "silent" or peer.replaced:
            return []
        peer.connection = "alive"
        return self._welcome(identity, peer)

    def _leave(self, identity: bytes, peer: Peer, connection: Connection) -> None:
        peer.connection = connection
        self._reclaim(identity)

    def _reclaim(self, identity: bytes) -> None:
        self._sink.reclaim(self._credits.close(identity))
        if self._rings is not None:
            self._rings.close(identity)


def _fault_of(peer: Peer, group: _Arriving) -> str | None:
    if group.sequence < peer.next_sequence:
        return "repeated"
    recipe = group.recipe
    if (recipe.incarnation, recipe.stream) != (peer.hello.incarnation, peer.hello.stream):
        return "foreign_recipe"
    return None
