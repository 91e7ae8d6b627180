"""Messages that nobody should send: real ones, broken in every way that is thought of here.

Used by `benchmarks.fuzz` and by the tests. The same seed gives the same messages.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec
import xxhash

from online_synclr.stream.frames import MAGIC, PREFIX_BYTES, pack
from online_synclr.stream.messages import (
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    Bye,
    ByeAck,
    Credit,
    End,
    Error,
    GroupHeader,
    Hello,
    InRing,
    Join,
    Message,
    Reject,
    Status,
    Ticket,
    Welcome,
)

Frames = list[bytes]
HUGE = (2**63, 2**64 - 1, -1, -(2**63), 2**31, 10**9)
HOSTILE_VALUES: tuple[Any, ...] = (
    *HUGE, None, True, math.nan, math.inf, "", "x" * 5000, "\0", b"\xff" * 9, [], [[]], {},
    {"a": {}}, [2, 3, 8], [2**40, 3, 8, 8], [0, 3, 8, 8], "object", "float64", "raw", "jpeg",
)  # fmt: skip


def framed(body: bytes, payload: bytes | None, *, version: int = PROTOCOL_VERSION) -> Frames:
    """Frames with a right checksum around any body: past it, only the parser protects."""
    state = xxhash.xxh3_64(version.to_bytes(2, "little"))
    state.update(body)
    state.update(payload or b"")
    prefix = MAGIC + version.to_bytes(2, "little") + state.intdigest().to_bytes(8, "little")
    return [prefix + body] if payload is None else [prefix + body, payload]


class HostileMessages:
    """An endless source of frames around real messages of one generator.

    Args:
        seed: of the choices.
        hello, header, payload: of a generator that the trainer would accept.
    """

    def __init__(self, seed: int, hello: Hello, header: GroupHeader, payload: bytes) -> None:
        self._random = random.Random(seed)
        self._header = header
        self._payload = payload
        self._real: list[Message] = [
            hello,
            header,
            InRing(recipes=[header.recipe], position=0, sequence=0, lease=header.lease),
            Status(state="running", counters={"images_rendered": 4.0}, sent=1),
            Bye(counters={}, sent=1),
            Error(message="out of memory"),
            Welcome(trainer_index=0, addresses=["tcp://127.0.0.1:1"], lease=1),
            Join(generator_id="ranks", image_shape=hello.image_shape),
            Ticket(
                run_id=hello.run_id,
                incarnation=1,
                number=9,
                addresses=["tcp://127.0.0.1:1"],
                image_shape=hello.image_shape,
            ),
            Reject(reason="no"),
            Credit(num_groups=4, lease=1),
            End(reason="over"),
            ByeAck(),
        ]
        self._kinds: list[Callable[[], Frames]] = [
            self._noise,
            self._flipped,
            self._truncated,
            self._oversized,
            self._frame_count,
            self._hostile_field,
            self._hostile_field,
            self._hostile_field,
            self._hostile_field,
            self._missing_field,
            self._hostile_body,
            self._hostile_payload,
            self._other_version,
            self._out_of_order,
            self._replayed,
        ]

    def next(self) -> Frames:
        """The next message."""
        return self._random.choice(self._kinds)()

    def _any(self) -> tuple[Message, bytes]:
        message = self._random.choice(self._real)
        return message, self._payload if isinstance(message, GroupHeader) else b""

    def _packed(self) -> Frames:
        return [bytes(frame) for frame in pack(*self._any())]

    def _fields(self) -> tuple[dict[str, Any], bytes | None]:
        message, payload = self._any()
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
        return fields, payload if isinstance(message, GroupHeader) else None

    def _noise(self) -> Frames:
        return [
            self._random.randbytes(self._random.choice((0, 1, PREFIX_BYTES, 100, 4000)))
            for _ in range(self._random.randint(1, 3))
        ]

    def _flipped(self) -> Frames:
        frames = [bytearray(frame) for frame in self._packed()]
        frame = self._random.choice(frames)
        for _ in range(self._random.randint(1, 4)):
            frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
        return [bytes(frame) for frame in frames]

    def _truncated(self) -> Frames:
        frames = self._packed()
        index = self._random.randrange(len(frames))
        frames[index] = frames[index][: self._random.randrange(len(frames[index]))]
        return frames

    def _oversized(self) -> Frames:
        extra = bytes(self._random.choice((1, 1000, MAX_HEADER_BYTES + 1)))
        frames = self._packed()
        index = self._random.randrange(len(frames))
        frames[index] += extra
        return frames

    def _frame_count(self) -> Frames:
        frames = self._packed()
        return [*frames, *([b""] * self._random.randint(1, 5))]

    def _hostile_field(self) -> Frames:
        fields, payload = self._fields()
        target = fields
        while (nested := _dicts_in(target)) and self._random.random() < 0.5:
            target = self._random.choice(nested)
        target[self._random.choice(list(target))] = self._random.choice(HOSTILE_VALUES)
        return framed(msgspec.msgpack.encode(fields), payload)

    def _missing_field(self) -> Frames:
        fields, payload = self._fields()
        if self._random.random() < 0.5:
            del fields[self._random.choice(list(fields))]
        else:
            fields[self._random.choice(("x", "__class__", "type", ""))] = 1
        return framed(msgspec.msgpack.encode(fields), payload)

    def _hostile_body(self) -> Frames:
        """Msgpack that promises more than there is, or nests without end."""
        body = self._random.choice(
            (
                b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
                b"\xdf\xff\xff\xff\xff",  # a map of 2^32 - 1
                b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
                b"\xdb\xff\xff\xff\xffabc",  # 4 GiB of text
                b"\x91" * 100_000,  # arrays in arrays
                b"\x81\xa4type" * 2000,  # maps in maps
                b"\xc7\x01\x05\x00",  # an extension type
                b"",
            )
        )
        return framed(body, self._random.choice((None, b"", self._payload)))

    def _hostile_payload(self) -> Frames:
        """A right header whose payload is none, in either encoding."""
        payload = self._random.choice(
            (b"", b"\xff\xd8\xff\xe0", self._random.randbytes(200), self._payload[:-1])
        )
        encoding = self._random.choice(("raw", "jpeg"))
        size = self._random.choice((len(payload), len(self._payload)))
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(self._header))
        fields |= {"encoding": encoding, "payload_bytes": size}
        return framed(msgspec.msgpack.encode(fields), payload)

    def _other_version(self) -> Frames:
        frames = self._packed()
        payload = frames[1] if len(frames) == 2 else None
        body = frames[0][PREFIX_BYTES:]
        return framed(body, payload, version=self._random.choice((0, PROTOCOL_VERSION + 1, 65535)))

    def _out_of_order(self) -> Frames:
        """A right message at a wrong time: most are, in this stream."""
        return self._packed()

    def _replayed(self) -> Frames:
        return [bytes(frame) for frame in pack(self._header, self._payload)]


def _dicts_in(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for value in fields.values() if isinstance(value, dict) and value]
