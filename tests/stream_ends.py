"""Real ends of the stream for the tests: receivers, senders, a raw peer, a process to kill."""

import contextlib
from collections.abc import Callable, Iterator
from threading import Event
from typing import TypeVar

import numpy as np
import zmq

from online_synclr.stream.endpoints import Endpoint, bind, ipc_endpoint
from online_synclr.stream.frames import pack, unpack
from online_synclr.stream.messages import GroupHeader, Hello, Message
from online_synclr.stream.peers import PeerView
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender
from online_synclr.stream.sink import GroupSink
from tests.stream_helpers import (
    RUN_ID,
    SHAPE,
    FakeSink,
    images_of,
    make_group,
    make_hello,
    make_recipe,
)

AnyMessage = TypeVar("AnyMessage")

LONG_S = 30.0
"""Bound on every wait: reached only when a test fails."""


@contextlib.contextmanager
def receiving(
    sink: GroupSink, endpoint: Endpoint | None = None, **changes: object
) -> Iterator[Receiver]:
    settings = {"image_shape": SHAPE, "credits_per_generator": 4, "silence_s": LONG_S} | changes
    receiver = Receiver(endpoint or ipc_endpoint(), RUN_ID, sink, **settings)  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.close()


@contextlib.contextmanager
def sending(address: str, hello: Hello, **changes: object) -> Iterator[Sender]:
    sender = Sender([address], hello, **changes)  # type: ignore[arg-type]
    try:
        yield sender
    finally:
        sender.close(0.0)


def only_peer(receiver: Receiver) -> PeerView:
    (view,) = receiver.peers()
    return view


def put_all(sender: Sender, counters: range, *, stream: int = 1) -> None:
    for counter in counters:
        assert sender.put(make_group(counter, stream=stream), LONG_S)


def seen(sink: FakeSink) -> list[int]:
    """Counters of the groups received, after checking that the pixels are theirs."""
    for group in sink.groups:
        assert np.array_equal(group.images_mchw, images_of(group.recipe.counter))
    return [group.recipe.counter for group in sink.groups]


def adds_up(receiver: Receiver) -> bool:
    now = receiver.counters()
    return now.sent == now.received + now.lost + sum(now.discarded.values())


def produce(sender: Sender) -> None:
    counter = 0
    while not sender.end_seen.is_set():
        counter += sender.put(make_group(counter), LONG_S)


def wait_until(reached: Callable[[], bool]) -> None:
    """Look again and again for what nobody announces; fails after LONG_S."""
    never = Event()
    for _ in range(int(LONG_S / 0.005)):
        if reached():
            return
        never.wait(0.005)
    raise AssertionError("not reached")


class StepClock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pass_until(self, reached: Callable[[], bool], receiver: Receiver, step_s: float) -> None:
        """Let time pass in steps, each seen by the receiver, until `reached` holds."""

        def step() -> bool:
            if not reached():
                self.now_s += step_s
                receiver.wake()
                return False
            return True

        wait_until(step)


RING_BYTES = 2**24
"""Enough shared memory for the rings of a test."""


class RawDealer:
    """A generator that says only what the test makes it say."""

    def __init__(self, address: str, hello: Hello) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(address)
        self.socket.send_multipart(pack(hello))

    def send_group(self, counter: int, lease: int = 1) -> None:
        payload = images_of(counter).tobytes()
        header = GroupHeader(
            recipe=make_recipe(counter),
            shape=SHAPE,
            encoding="raw",
            payload_bytes=len(payload),
            sequence=counter,
            lease=lease,
        )
        self.socket.send_multipart(pack(header, payload))

    def __enter__(self) -> "RawDealer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close(linger=0)
        self.context.term()


class RawRouter:
    """A trainer that says only what the test makes it say, to whoever spoke last."""

    def __init__(self) -> None:
        self._endpoint = ipc_endpoint()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVTIMEO, int(1000 * LONG_S))
        self.address = bind(self._socket, self._endpoint)
        self._peer = b""

    def next(self, kind: type[AnyMessage]) -> AnyMessage:
        """Wait for the next message of that kind; others are skipped."""
        while True:
            self._peer, *frames = self._socket.recv_multipart()
            message, _ = unpack(frames)
            if isinstance(message, kind):
                return message

    def send(self, message: Message) -> None:
        self._socket.send_multipart([self._peer, *pack(message)])

    def __enter__(self) -> "RawRouter":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)
        self._context.term()
        self._endpoint.remove()


def generate_until_killed(address: str) -> None:
    """Body of a process that sends for ever."""
    sender = Sender([address], make_hello("doomed"), queue_groups=4)
    for counter in range(10**9):
        sender.put(make_group(counter), LONG_S)
