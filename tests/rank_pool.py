"""Spawned gloo ranks that run functions of tests.

    with RankPool(2) as pool:
        results = pool.run(function, argument)   # function(argument) on every rank, results by rank

Ranks are spawned once, meet through a file (no port is taken), and stay for many calls: importing
torch takes longer than most tests. The function is sent by name and must be at the top level of
its module. A call waits for all ranks at most `timeout_s`; one that fails ends the pool, since the
others may be stuck in a collective.
"""

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class RankPool:
    """`size` processes with an initialised default process group."""

    def __init__(self, size: int, *, timeout_s: float = 120.0) -> None:
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="rank_pool_")
        store = str(Path(self._folder.name) / "store")
        context = mp.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, size, store, timeout_s, there), daemon=True
            )
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call `function(*arguments)` on every rank at once.

        Raises:
            RuntimeError: a rank raised, died or took too long; the pool is closed then.
        """
        for connection in self._connections:
            connection.send((function, arguments))
        results = []
        for rank, connection in enumerate(self._connections):
            outcome = self._receive(rank, connection)
            if isinstance(outcome, _Failure):
                self.close()
                raise RuntimeError(f"rank {rank}: {outcome.text}")
            results.append(outcome)
        return results

    def close(self) -> None:
        """End the ranks."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._folder.cleanup()

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self, rank: int, connection: Connection) -> Any:
        try:
            if connection.poll(self._timeout_s):
                return connection.recv()
        except EOFError:
            return _Failure("died")
        return _Failure(f"gave no answer within {self._timeout_s} s")


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _serve(rank: int, size: int, store: str, timeout_s: float, connection: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(function(*arguments))
        except BaseException:
            connection.send(_Failure(traceback.format_exc()))
