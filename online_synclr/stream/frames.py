"""Messages to frames and back, under one checksum.

First frame: magic (4 bytes), protocol version (uint16, little endian), xxh3_64 (uint64) of version,
body and payload, then the body. Second frame, groups only: the payload. The checksum covers both:
a flipped bit in a header would mislabel a group.
"""

import struct
from collections.abc import Sequence
from typing import Final

import xxhash

from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.messages import (
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    GroupHeader,
    Message,
    decode_body,
    encode_body,
)

Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"OSYN"
_PREFIX: Final = struct.Struct("<4sHQ")
PREFIX_BYTES: Final = _PREFIX.size


def pack(message: Message, payload: Buffer = b"") -> list[Buffer]:
    """Frames to send; the payload is passed on as it is, without a copy.

    Raises:
        ValueError: the message cannot be encoded within its bounds.
    """
    body = encode_body(message)
    checksum = _checksum(PROTOCOL_VERSION, body, payload)
    header = _PREFIX.pack(MAGIC, PROTOCOL_VERSION, checksum) + body
    return [header, payload] if isinstance(message, GroupHeader) else [header]


def unpack(frames: Sequence[Buffer]) -> tuple[Message, Buffer]:
    """The message in `frames` and its payload (empty for all but groups).

    The checksum is compared before anything is parsed. A `protocol_version` fault carries the
    other side's version as its detail.

    Raises:
        MalformedMessage: anything else than what `pack` makes.
    """
    if len(frames) not in (1, 2):
        raise MalformedMessage("frame_count", str(len(frames)))
    version, checksum, body = _split(frames[0])
    if version != PROTOCOL_VERSION:
        raise MalformedMessage("protocol_version", str(version))
    payload = frames[1] if len(frames) == 2 else b""
    if _checksum(version, body, payload) != checksum:
        raise MalformedMessage("checksum")
    message = decode_body(body)
    if isinstance(message, GroupHeader) != (len(frames) == 2):
        raise MalformedMessage("frame_count", type(message).__name__)
    if isinstance(message, GroupHeader) and message.payload_bytes != len(payload):
        raise MalformedMessage("payload_size", f"{len(payload)} of {message.payload_bytes}")
    return message, payload


def _split(header: Buffer) -> tuple[int, int, memoryview]:
    if not PREFIX_BYTES <= len(header) <= PREFIX_BYTES + MAX_HEADER_BYTES:
        raise MalformedMessage("header_size", f"{len(header)} bytes")
    magic, version, checksum = _PREFIX.unpack_from(header)
    if magic != MAGIC:
        raise MalformedMessage("magic")
    return version, checksum, memoryview(header)[PREFIX_BYTES:]


def _checksum(version: int, body: Buffer, payload: Buffer) -> int:
    state = xxhash.xxh3_64(version.to_bytes(2, "little"))
    state.update(body)
    state.update(payload)
    return state.intdigest()
