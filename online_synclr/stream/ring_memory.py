"""One ring of slots in memory that two processes share: how it is laid out, made and opened.

    trainer: make -> RingOffer in WELCOME -> generator: open
    generator: write a slot -> its position, in IN_RING -> trainer: read the slot into the pool

The memory has no name: it is an anonymous file (memfd_create) that the generator opens through the
trainer's entry in /proc, which the kernel allows to the same user in the same PID namespace only.
So there is nothing to unlink, nothing is left when either side is killed at any moment, and the
size of /dev/shm, 64 MB in many containers, does not matter: no part of it is used. The memory is
reserved when the ring is made, and the file is sealed: neither side can shrink it, so that no touch
of it can end in SIGBUS, whatever the other one does.

Layout: a page with magic and token, by which the generator knows that it has opened what it was
offered; the slots' stamps, one to a cache line; the slots. A slot's stamp is its position + 1 once
its group is complete, and 0 while it is written. The trainer compares it before and after its copy,
so a slot that somebody writes to meanwhile is found (`torn`). Else the kernel orders the two sides:
a slot is told of, through a socket, only after it is written.

There is no checksum over the pixels: they lie in the machine's memory all the way, as they did in
the generator before and will in the pool after, and one pass of xxh3 over 786 KB costs 80 us,
against 120 for the copy itself. What a checksum is for on a socket (bytes that are lost, cut or put
together wrongly on the way) is what the stamps find here; header and position are under their own.
"""

import fcntl
import mmap
import os
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np

from online_synclr.stream.errors import MalformedMessage, StreamError
from online_synclr.stream.messages import TOKEN_BYTES, RingOffer

MAGIC: Final = b"OSYNRING"
PAGE_BYTES: Final = 4096
LINE_BYTES: Final = 64
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Neither shorter nor longer, and that for good."""


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where things are, in bytes from the start."""

    num_slots: int
    slot_bytes: int

    @property
    def slots_at(self) -> int:
        """The first slot."""
        return PAGE_BYTES + _whole(self.num_slots * LINE_BYTES, PAGE_BYTES)

    @property
    def stride_bytes(self) -> int:
        """From one slot to the next: whole pages."""
        return _whole(self.slot_bytes, PAGE_BYTES)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.slots_at + self.num_slots * self.stride_bytes


class TrainerRing:
    """The side that makes the ring and reads.

    Args:
        layout: of the ring.

    Raises:
        OSError: there is no such memory here, or not so much of it.
    """

    def __init__(self, layout: RingLayout) -> None:
        self._layout = layout
        self._file = os.memfd_create("osynclr-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Really reserved: a file that is only long would end in SIGBUS where memory is short.
            os.posix_fallocate(self._file, 0, layout.total_bytes)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
            self._shared = _Shared(self._file, layout)
        except BaseException:
            os.close(self._file)
            raise
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._shared.write_label(MAGIC + self._token)

    @property
    def offer(self) -> RingOffer:
        """How the generator finds it."""
        return RingOffer(
            pid=os.getpid(),
            file=self._file,
            token=self._token,
            num_slots=self._layout.num_slots,
            slot_bytes=self._layout.slot_bytes,
        )

    def read(self, position: int, out_mchw: np.ndarray) -> None:
        """Copy the group at `position` (which the window allows) into `out_mchw`, contiguous.

        Raises:
            MalformedMessage: it is not there, or was written to during the copy (`torn`).
        """
        slot = position % self._layout.num_slots
        self._check_stamp(slot, position)
        # numpy lets the training loop run meanwhile: it copies without Python's lock.
        out_mchw.reshape(-1)[:] = self._shared.slots[slot]
        self._check_stamp(slot, position)

    def close(self) -> None:
        """Let go of the memory: whoever still writes there writes to nobody."""
        self._shared.close()
        os.close(self._file)

    def _check_stamp(self, slot: int, position: int) -> None:
        if self._shared.stamps[slot] != position + 1:
            raise MalformedMessage("torn", f"position {position}")


class GeneratorRing:
    """The side that opens the ring and writes.

    Args:
        offer: the trainer's.
        slot_bytes: of this generator's groups.

    Raises:
        StreamError: it cannot be opened, or is not what was offered.
    """

    def __init__(self, offer: RingOffer, slot_bytes: int) -> None:
        if offer.slot_bytes != slot_bytes:
            raise StreamError(f"slots of {offer.slot_bytes} bytes for groups of {slot_bytes}")
        self._layout = RingLayout(offer.num_slots, offer.slot_bytes)
        try:
            file = os.open(f"/proc/{offer.pid}/fd/{offer.file}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StreamError(f"the trainer's memory cannot be opened: {error}") from error
        try:
            self._shared = _open_sealed(file, self._layout)
        finally:
            os.close(file)
        if self._shared.read_label(len(MAGIC) + TOKEN_BYTES) != MAGIC + offer.token:
            self._shared.close()
            raise StreamError("the memory found is not what the trainer offered")
        self.position = 0
        """Of the next group."""

    @property
    def num_slots(self) -> int:
        """Groups that fit: more credits are never held."""
        return self._layout.num_slots

    def write(self, index: int, images_mchw: np.ndarray) -> None:
        """Copy a group, for which there is a credit, into the slot `index` after the next one.

        The same slots again until `sent`: what could not be sent leaves nothing behind.
        """
        position = self.position + index
        slot = position % self._layout.num_slots
        self._shared.stamps[slot] = 0
        self._shared.slots[slot].reshape(images_mchw.shape)[:] = images_mchw
        self._shared.stamps[slot] = position + 1

    def sent(self, num_groups: int) -> None:
        """So many groups written last are on their way."""
        self.position += num_groups

    def close(self) -> None:
        """Let go of the memory."""
        self._shared.close()


class _Shared:
    """The mapping, and views of its parts."""

    def __init__(self, file: int, layout: RingLayout) -> None:
        # Populated: the page faults of a new ring are taken here, not one by one in the copies.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._map = mmap.mmap(file, layout.total_bytes, flags=flags)
        flat = np.frombuffer(self._map, dtype=np.uint8)
        lines = flat[PAGE_BYTES : PAGE_BYTES + layout.num_slots * LINE_BYTES]
        self.stamps = lines.view(np.uint64).data[:: LINE_BYTES // 8]
        self.slots = [
            flat[start : start + layout.slot_bytes]
            for start in range(layout.slots_at, layout.total_bytes, layout.stride_bytes)
        ]

    def write_label(self, label: bytes) -> None:
        self._map[: len(label)] = label

    def read_label(self, num_bytes: int) -> bytes:
        return self._map[:num_bytes]

    def close(self) -> None:
        # The views go first: a mapping that somebody can look at cannot be closed.
        del self.stamps, self.slots
        self._map.close()


def _open_sealed(file: int, layout: RingLayout) -> _Shared:
    try:
        size, seals = os.fstat(file).st_size, fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError as error:
        raise StreamError(f"the memory found is not a trainer's: {error}") from error
    if size != layout.total_bytes or seals & _SEALS != _SEALS:
        raise StreamError("the memory found is not what the trainer offered")
    try:
        return _Shared(file, layout)
    except (OSError, ValueError) as error:
        raise StreamError(f"the trainer's memory cannot be mapped: {error}") from error


def _whole(num_bytes: int, unit_bytes: int) -> int:
    return -(-num_bytes // unit_bytes) * unit_bytes
