"""Writes one trainer's ledger of one attempt, beside the training loop.

    loop: first_use, count -> a block's facts --full, or flush--> thread: zlib, write, fsync

The thread waits for blocks; the loop waits in `flush` and `close` only, for the thread to have
tried. A block that cannot be written (a full disk) stays in memory and is tried again with every
later one; beyond `MAX_BLOCKS` of them the newest are dropped, counted and said.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from online_synclr.ledger import columns
from online_synclr.ledger.blocks import FACTS_KIND, HEADER_KIND, pack
from online_synclr.ledger.facts import FirstUse, Header, UseCount
from online_synclr.stream.group import Recipe

BLOCK_GROUPS: Final = 1024
BLOCK_COUNTS: Final = 8192
BLOCK_CHARS: Final = 2**20
"""Of captions in a block; with these three a block stays far below what readers accept."""

MAX_BLOCKS: Final = 256


class LedgerCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Of one trainer and attempt, cumulative: groups entered, and those whose entry was lost.

    `num_bytes`: safe on disk, for `groups_on_disk` of them. `step_s`: time the training loop spent
    on the ledger, `thread_s` its thread, disk included.
    """

    groups: int = 0
    lost: int = 0
    groups_on_disk: int = 0
    num_bytes: int = 0
    step_s: float = 0.0
    thread_s: float = 0.0


class BlockFile(Protocol):
    """Where blocks go: a `DurableFile`."""

    @property
    def num_bytes(self) -> int:
        """Length of what is safe."""

    def append(self, block: bytes) -> None:
        """Make a block safe, or raise OSError and leave all as it was."""

    def close(self) -> None:
        """Close it."""


class LedgerWriter:
    """All methods are called by one thread. `say` takes a line for people, from any thread.

    Raises:
        OSError: the header cannot be written.
    """

    def __init__(self, file: BlockFile, header: Header, *, say: Callable[[str], None]) -> None:
        file.append(pack(HEADER_KIND, msgspec.msgpack.encode(header)))
        self._file = file
        self._say = say
        self._num_entries = 0
        self._filling = _Block(0)
        self._changed = threading.Condition()
        self._waiting: deque[_Block] = deque()
        self._asked = self._done = 0
        self._closed = False
        self._error: str | None = None
        self._lost = 0
        self._on_disk = 0
        self._thread_s = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def first_use(self, recipe: Recipe, *, step: int, time_s: int) -> int:
        """Enter a group; returns the number that `count` knows it by."""
        entry = self._num_entries
        self._num_entries += 1
        self._filling.add(FirstUse(entry, recipe, step, time_s))
        if self._filling.is_full:
            self._seal()
        return entry

    def count(self, entry: int, uses: int, *, step: int, left: bool) -> None:
        """State how often an entry had been used after `step` steps; `left`: for the last time."""
        self._filling.counts.append(UseCount(entry, uses, step, left))
        if self._filling.is_full:
            self._seal()

    def flush(self) -> str | None:
        """Wait until all that was entered is safe on disk; why it is not, or None.

        What was dropped before is no reason: it was said and is counted.
        """
        if len(self._waiting) >= MAX_BLOCKS:
            # Sealed now, the newest block would be dropped, though it has room left to fill.
            error = self._try_to_write()
            if error is not None:
                return error
        self._seal()
        return self._try_to_write()

    def counters(self) -> LedgerCounters:
        """A snapshot; `step_s` is the caller's to know."""
        with self._changed:
            return LedgerCounters(
                groups=self._num_entries - self._lost,
                lost=self._lost,
                groups_on_disk=self._on_disk,
                num_bytes=self._file.num_bytes,
                thread_s=self._thread_s,
            )

    def close(self) -> str | None:
        """Flush, end the thread, close the file; why something is not on disk, or None."""
        error = self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._file.close()
        return error

    def _try_to_write(self) -> str | None:
        """Wait until the thread has tried all that is sealed; why it did not manage, or None."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= asked)
            return self._error

    def _seal(self) -> None:
        if not self._filling.num_facts:
            return
        block, self._filling = self._filling, _Block(self._num_entries)
        with self._changed:
            if len(self._waiting) < MAX_BLOCKS:
                self._waiting.append(block)
            else:
                self._lose(block, f"{MAX_BLOCKS} blocks wait for the disk; make room in run.dir")
            self._asked += 1
            self._changed.notify_all()

    def _lose(self, block: "_Block", reason: str) -> None:
        self._lost += block.num_groups
        self._say(
            f"the ledger lost {block.num_groups} groups ({self._lost} in all) and "
            f"{len(block.counts)} use counts: {reason}"
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked > self._done)
                if self._asked == self._done:
                    return
                asked = self._asked
            started_s = time.monotonic()
            error = self._write_all()
            with self._changed:
                self._thread_s += time.monotonic() - started_s
                self._note(error)
                self._done = asked
                self._changed.notify_all()

    def _write_all(self) -> str | None:
        """Write what waits, oldest first; why it ended early, or None."""
        while True:
            with self._changed:
                if not self._waiting:
                    return None
                block = self._waiting[0]
            try:
                self._file.append(block.packed())
                written = True
            except OSError as error:
                return error.strerror or str(error)
            except Exception as error:  # no later try can help, and the thread must go on
                written = False
                with self._changed:
                    self._lose(block, repr(error))
            with self._changed:
                self._waiting.popleft()
                self._on_disk += block.num_groups if written else 0

    def _note(self, error: str | None) -> None:
        if error is not None and error != self._error:
            self._say(
                f"the ledger cannot be written ({error}); its entries are kept in memory and tried "
                "again; make room in run.dir"
            )
        self._error = error


class _Block:
    """Facts on their way to disk; once packed, only that form of them is kept."""

    def __init__(self, first_entry: int) -> None:
        self.counts: list[UseCount] = []
        self.num_groups = 0
        self._first_entry = first_entry
        self._firsts: list[FirstUse] = []
        self._num_chars = 0
        self._packed = b""

    def add(self, fact: FirstUse) -> None:
        self._firsts.append(fact)
        self.num_groups += 1
        self._num_chars += len(fact.recipe.caption)

    @property
    def num_facts(self) -> int:
        return self.num_groups + len(self.counts)

    @property
    def is_full(self) -> bool:
        return (
            self.num_groups >= BLOCK_GROUPS
            or len(self.counts) >= BLOCK_COUNTS
            or self._num_chars >= BLOCK_CHARS
        )

    def packed(self) -> bytes:
        if not self._packed:
            payload = columns.encode(self._first_entry, self._firsts, self.counts)
            self._packed = pack(FACTS_KIND, payload)
            self._firsts, self.counts = [], []
        return self._packed
