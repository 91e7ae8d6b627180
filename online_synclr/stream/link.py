"""A generator's connection to one trainer: a DEALER that introduces itself after every connect.

Used by its owner's thread only. The socket's monitor tells of connects and disconnects: each
connect is followed by HELLO, each WELCOME opens a new lease period, and credits of an earlier
period are void on both sides. So nothing has to be guessed about what a broken connection lost.
"""

import contextlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from online_synclr.stream.errors import MalformedMessage, StreamError
from online_synclr.stream.frames import Buffer, pack, unpack
from online_synclr.stream.group import Group
from online_synclr.stream.keys import GeneratorKey
from online_synclr.stream.messages import (
    MAX_HEADER_BYTES,
    Bye,
    ByeAck,
    Credit,
    End,
    GroupHeader,
    Hello,
    InRing,
    Join,
    Message,
    PeerState,
    Progress,
    Reject,
    Status,
    Ticket,
    Welcome,
)
from online_synclr.stream.ring_memory import GeneratorRing

HELLO_RETRY_S: Final = 0.05
HANDSHAKE_MS: Final = 10_000
RECONNECT_MS: Final = 50
RECONNECT_MAX_MS: Final = 2_000
FAILED_HANDSHAKES: Final = 8
FAILED_HANDSHAKES_S: Final = 600.0
"""So many in a row over so long a time are no accident: a relay that stands before a trainer which
is being restarted breaks off some, too."""

REVIVE_S: Final = 15.0
"""libzmq itself never connects again after bytes that it cannot read, corrupted ones for example:
a connection that is down for so long, longer than a handshake may take, is made anew."""

PING_MS: Final = 10_000
PING_TIMEOUT_MS: Final = 30_000
QUEUE_MESSAGES: Final = 4096
_UP = zmq.Event.HANDSHAKE_SUCCEEDED
_DOWN = zmq.Event.DISCONNECTED
_REFUSED = zmq.Event.HANDSHAKE_FAILED_AUTH
_BROKEN_OFF = zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL


class Link:
    """One trainer as a generator sees it.

    Public attributes are state, read by the owner: `credits` groups may be sent now; `sent` groups
    were sent, ever; `welcomed`: the trainer has accepted this connection; `ended`, `rejected`: it
    asked to stop, or refused, with that reason; `comes_back`: that was about this attempt, not
    about the run or the generator; `bye_acked`: it has read everything; `retired`: it is another
    generator's to serve, only BYE is still said. With JOIN for a greeting, `ticket` is the answer.
    `ring`: where groups go that are sent under these credits; none: into the message. `progress`:
    of the run, as last heard from this trainer.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        greeting: Hello | Join,
        *,
        heartbeat_s: float,
        key: GeneratorKey | None = None,
    ) -> None:
        self.address = address
        self.credits = 0
        self.sent = 0
        self.welcomed = False
        self.welcome: Welcome | None = None
        self.ended: str | None = None
        self.rejected: str | None = None
        self.comes_back = False
        self.ticket: Ticket | None = None
        self.bye_sent = False
        self.bye_acked = False
        self.retired = False
        self.ring: GeneratorRing | None = None
        self.progress: Progress | None = None
        self._greeting = greeting
        self._heartbeat_s = heartbeat_s
        self._connected = False
        self._hello_due_s = 0.0
        self._status_due_s = 0.0
        self.socket = context.socket(zmq.DEALER)
        self._set_options(self.socket)
        if key is not None and address.startswith("tcp:"):
            self._set_key(self.socket, key)
        self._failed_handshakes = 0
        self._failing_since_s: float | None = None
        self._revive_due_s: float | None = None
        self.monitor = self.socket.get_monitor_socket(_UP | _DOWN | _REFUSED | _BROKEN_OFF)
        self.socket.connect(address)

    def on_events(self) -> None:
        """Take in what the monitor reported."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, zmq.DONTWAIT)["event"]
                self._count_handshakes(event)
                self._connected = event == _UP
                self.welcomed = False
                self.credits = 0
                self._close_ring()
                self._hello_due_s = 0.0

    def _count_handshakes(self, event: int) -> None:
        if event == _UP:
            self._failed_handshakes, self._failing_since_s = 0, None
            if isinstance(self._greeting, Hello):
                number = self._greeting.connection + 1
                self._greeting = msgspec.structs.replace(self._greeting, connection=number)
        elif event == _REFUSED:
            self.comes_back = False
            self.rejected = (
                f"the trainer at {self.address} does not know this generator's key; add it to the "
                "run's stream.keys"
            )
        elif event & _BROKEN_OFF:
            self._failed_handshakes += 1
            if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._revive_due_s = 0.0

    def on_messages(self) -> Iterator[Message]:
        """Read all that waits; state is kept here, each message is also handed to the owner.

        Malformed messages are dropped: a trainer that sends them is not one.
        """
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                message, _ = unpack(frames)
            except MalformedMessage as error:
                if error.reason == "protocol_version":
                    self.rejected = f"the trainer speaks protocol version {error.detail}"
                continue
            self._take(message)
            yield message

    def tend(
        self, state: PeerState, counters: dict[str, float], now_s: float, *, at_once: bool = False
    ) -> None:
        """Send what is due: HELLO until welcomed, then STATUS every heartbeat or `at_once`.

        What a full queue does not take is left to the next heartbeat. A connection that stays down
        is made anew.
        """
        self._tend_connection(now_s)
        if self._connected and not self.welcomed and now_s >= self._hello_due_s:
            sent = self.send(self._greeting)
            self._hello_due_s = now_s + (self._heartbeat_s if sent else HELLO_RETRY_S)
        if self.welcomed and not self.bye_sent and (at_once or now_s >= self._status_due_s):
            self._status_due_s = now_s + self._heartbeat_s
            self.send(Status(state=state, counters=counters, sent=self.sent))

    def next_due_s(self) -> float:
        """When `tend` is due next, on the clock of its `now_s`."""
        if self.welcomed:
            return self._status_due_s
        if self._connected:
            return self._hello_due_s
        return float("inf") if self._revive_due_s is None else self._revive_due_s

    def _tend_connection(self, now_s: float) -> None:
        if self._connected:
            self._revive_due_s = None
            return
        if self._revive_due_s is None:
            self._revive_due_s = now_s + REVIVE_S
        elif now_s >= self._revive_due_s:
            self._revive_due_s = now_s + REVIVE_S
            with contextlib.suppress(zmq.ZMQError):
                self.socket.disconnect(self.address)
            self.socket.connect(self.address)
        if self._failed_handshakes and self._failing_since_s is None:
            self._failing_since_s = now_s
        if (
            self._failing_since_s is not None
            and self._failed_handshakes >= FAILED_HANDSHAKES
            and now_s - self._failing_since_s >= FAILED_HANDSHAKES_S
        ):
            self.comes_back = False
            self.rejected = (
                f"whoever listens at {self.address} breaks off every handshake; use the addresses "
                "and the keys of one and the same run, or look for a relay whose trainer is gone"
            )

    def send_group(self, header: GroupHeader, payload: Buffer) -> bool:
        """Send one group under one credit. The payload must not change afterwards."""
        if not self.send(header, payload):
            return False
        self.credits -= 1
        self.sent += 1
        return True

    def send_in_ring(self, groups: Sequence[Group]) -> bool:
        """Put groups, for which there are credits, into the ring and tell of them together."""
        assert self.ring is not None
        for index, group in enumerate(groups):
            self.ring.write(index, group.images_mchw)
        message = InRing(
            recipes=[group.recipe for group in groups],
            position=self.ring.position,
            sequence=self.sent,
            lease=self.lease,
        )
        if not self.send(message):
            return False
        self.ring.sent(len(groups))
        self.credits -= len(groups)
        self.sent += len(groups)
        return True

    def send_bye(self, counters: dict[str, float]) -> None:
        """Say that nothing follows; `bye_acked` tells when the trainer has read it."""
        self.credits = 0
        self.bye_sent = self.send(Bye(counters=counters, sent=self.sent))

    def send(self, message: Message, payload: Buffer = b"") -> bool:
        """Send without blocking; False if the connection cannot take it now."""
        try:
            frames = pack(message, payload)
            # What has one frame is small: a copy of it costs less than keeping track of it.
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=len(frames) == 1)
        except zmq.Again:
            return False
        return True

    @property
    def lease(self) -> int:
        """Lease period that the credits belong to."""
        return 0 if self.welcome is None else self.welcome.lease

    def close(self) -> None:
        """Drop the connection at once; what is unsent is gone."""
        self._close_ring()
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    def _take(self, message: Message) -> None:
        if isinstance(message, Welcome):
            self.welcome, self.welcomed = message, True
            self.credits, self.bye_sent = 0, False
            self._status_due_s = 0.0
            self._open_ring(message)
            self.progress = message.progress or self.progress
        elif isinstance(message, Progress):
            self.progress = message
        elif isinstance(message, Credit):
            if self.welcomed and not self.bye_sent and message.lease == self.lease:
                self.credits += message.num_groups
        elif isinstance(message, End):
            self.ended, self.comes_back = message.reason, not message.final
        elif isinstance(message, Reject):
            self.rejected, self.comes_back = message.reason, message.rejoin
        elif isinstance(message, Ticket):
            self.ticket = message
        elif isinstance(message, ByeAck):
            self.bye_acked = True

    def _open_ring(self, welcome: Welcome) -> None:
        self._close_ring()
        if welcome.ring is not None and isinstance(self._greeting, Hello):
            # A trainer that is sent what it offered a ring for says why that may be.
            with contextlib.suppress(StreamError):
                self.ring = GeneratorRing(welcome.ring, prod(self._greeting.image_shape))

    def _close_ring(self) -> None:
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def _set_key(self, socket: zmq.Socket[bytes], key: GeneratorKey) -> None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, key.trainers.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())

    def _set_options(self, socket: zmq.Socket[bytes]) -> None:
        # IMMEDIATE: never queue to a connection that does not exist (yet, or any more).
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        # A trainer says nothing by itself; ZeroMQ's own heartbeats tell when its machine is gone.
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_HEADER_BYTES)
        socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int("[" in self.address))
