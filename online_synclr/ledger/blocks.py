"""Blocks on disk: each one complete by itself, bounded, checksummed and compressed.

    kind (4 bytes) | stored bytes | raw bytes | xxh3_64 of the stored | crc32 of all before | stored

A file is a header block and then blocks of facts, numbers little endian. What a crash or a full
disk has torn is at the end; a block that was damaged later costs itself alone. Compressed with
zlib: lzma takes about a seventh more off, at five to nine times the work.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

import xxhash

HEADER_KIND: Final = b"OSLH"
FACTS_KIND: Final = b"OSLF"
MAX_STORED_BYTES: Final = 16 * 2**20
MAX_RAW_BYTES: Final = 64 * 2**20
LEVEL: Final = 6
_FIELDS: Final = struct.Struct("<4sIIQ")
_CHECK: Final = struct.Struct("<I")
HEAD_BYTES: Final = _FIELDS.size + _CHECK.size


@dataclass(frozen=True, slots=True)
class Damage:
    """What could not be read: `num_bytes` from `offset` on. `is_tail`: nothing was read after."""

    offset: int
    num_bytes: int
    is_tail: bool


def pack(kind: bytes, payload: bytes) -> bytes:
    """A block of that kind.

    Raises:
        ValueError: the payload exceeds what readers accept.
    """
    stored = zlib.compress(payload, LEVEL)
    if len(payload) > MAX_RAW_BYTES or len(stored) > MAX_STORED_BYTES:
        raise ValueError(f"a block of {len(payload)} bytes, {len(stored)} compressed, is too large")
    fields = _FIELDS.pack(kind, len(stored), len(payload), xxhash.xxh3_64_intdigest(stored))
    return fields + _CHECK.pack(zlib.crc32(fields)) + stored


def read_blocks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes] | Damage]:
    """Kind and payload of every block of a file from its start, and what could not be read.

    A block whose head is whole is stepped over if the rest is damaged; where no head is, the
    reading ends.

    Raises:
        OSError: the file cannot be read.
    """
    size = file.seek(0, 2)
    offset = file.seek(0)
    while offset < size:
        head = _parse_head(file.read(HEAD_BYTES))
        end = offset + HEAD_BYTES + (0 if head is None else head.stored_bytes)
        if head is None or end > size:
            yield Damage(offset, size - offset, is_tail=True)
            return
        payload = _payload(head, file.read(head.stored_bytes))
        if payload is None:
            yield Damage(offset, end - offset, is_tail=end == size)
        else:
            yield head.kind, payload
        offset = end


@dataclass(frozen=True, slots=True)
class _Head:
    kind: bytes
    stored_bytes: int
    raw_bytes: int
    checksum: int


def _parse_head(data: bytes) -> _Head | None:
    if len(data) < HEAD_BYTES:
        return None
    (check,) = _CHECK.unpack_from(data, _FIELDS.size)
    head = _Head(*_FIELDS.unpack_from(data))
    sound = check == zlib.crc32(data[: _FIELDS.size]) and head.kind in (HEADER_KIND, FACTS_KIND)
    bounded = head.stored_bytes <= MAX_STORED_BYTES and head.raw_bytes <= MAX_RAW_BYTES
    return head if sound and bounded else None


def _payload(head: _Head, stored: bytes) -> bytes | None:
    if xxhash.xxh3_64_intdigest(stored) != head.checksum:
        return None
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(stored, head.raw_bytes + 1)
    except zlib.error:
        return None
    return payload if len(payload) == head.raw_bytes and unpacker.eof else None
