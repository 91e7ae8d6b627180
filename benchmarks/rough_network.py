"""A relay that behaves like a bad network: it delays, stalls, cuts and corrupts TCP connections.

It listens on one loopback address and passes on to another, port by port, in a thread of its own.
Faults strike one connection at a time, at random moments. The same seed draws the same faults, but
not at the same bytes.
"""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Final

READ_BYTES: Final = 65536
FAULTS: Final = ("delay", "stall", "cut", "cut_within", "corrupt")


@dataclass(eq=False)
class _Connection:
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    slow_until_s: float = 0.0
    stalled_until_s: float = 0.0
    corrupt: int | None = None
    """Direction whose next bytes get one flipped bit."""
    cut_within: int | None = None
    """Direction whose next bytes are passed on by half, and the connection broken off."""

    def abort(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(RuntimeError):
                writer.transport.abort()


class RoughNetwork:
    """The relay; a context manager.

    Args:
        ports: listened on at `listen_host` and passed on to at `target_host`.
        pause_s: mean time between two faults; they begin with the first connection.
    """

    def __init__(
        self,
        *,
        listen_host: str,
        target_host: str,
        ports: Sequence[int],
        pause_s: float,
        seed: int,
    ) -> None:
        self.struck: Counter[str] = Counter()
        """Faults so far, by kind."""
        self._listen_host = listen_host
        self._target_host = target_host
        self._ports = ports
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> "RoughNetwork":
        self._thread.start()
        for port in self._ports:
            asyncio.run_coroutine_threadsafe(self._listen(port), self._loop).result()
        self._loop.call_soon_threadsafe(self._start, self._strike())
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self, port: int) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # asyncio would print the cancelling of what still runs at the end.
            with contextlib.suppress(asyncio.CancelledError):
                await self._relay(port, reader, writer)

        await asyncio.start_server(accept, self._listen_host, port)

    async def _relay(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = _Connection([writer])
        try:
            onward, backward = await asyncio.open_connection(self._target_host, port)
        except OSError:
            connection.abort()
            return
        connection.writers.append(backward)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, 0, reader, backward),
                self._pump(connection, 1, onward, writer),
            )
        except OSError:
            pass
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(
        self,
        connection: _Connection,
        direction: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(READ_BYTES):
            now_s = self._loop.time()
            await asyncio.sleep(max(0.0, connection.stalled_until_s - now_s))
            if now_s < connection.slow_until_s:
                await asyncio.sleep(self._random.uniform(0.05, 0.3))
            if connection.corrupt == direction:
                connection.corrupt = None
                data = self._flip(data)
            if connection.cut_within == direction:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                break
            writer.write(data)
            await writer.drain()
        # One side is done: so is the other.
        connection.abort()

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    async def _strike(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._pause_s))
            if self._connections:
                connection = self._random.choice(sorted(self._connections, key=id))
                self._strike_one(connection, self._random.choice(FAULTS))

    def _strike_one(self, connection: _Connection, fault: str) -> None:
        self.struck[fault] += 1
        now_s = self._loop.time()
        if fault == "delay":
            connection.slow_until_s = now_s + self._random.uniform(1.0, 4.0)
        elif fault == "stall":
            connection.stalled_until_s = now_s + self._random.uniform(2.0, 12.0)
        elif fault == "cut":
            connection.abort()
        elif fault == "corrupt":
            connection.corrupt = self._random.randrange(2)
        else:
            connection.cut_within = self._random.randrange(2)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)

    async def _close(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
