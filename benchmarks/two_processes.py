"""Groups from one process to another, timed: both clocks, and the process that sends."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from benchmarks.namespaces import enter
from benchmarks.stamped import WARM_UP_GROUPS

REPORT_S: Final = 300.0


@dataclass(frozen=True)
class Moved:
    """One measurement: groups a second, and CPU a group of both processes, in microseconds."""

    groups_per_s: float
    receiver_us: float
    sender_us: float


class Stopwatch:
    """Wall and CPU time of this process from the end of the warm-up to the last of `total`."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._began = self._ended = (0.0, 0.0)

    def count(self) -> None:
        """One more group."""
        self._count += 1
        if self._count == WARM_UP_GROUPS:
            self._began = (time.perf_counter(), time.process_time())
        if self._count == self._total:
            self._ended = (time.perf_counter(), time.process_time())

    def per_group_s(self) -> tuple[float, float]:
        """Seconds of wall and of CPU time."""
        groups = self._total - WARM_UP_GROUPS
        wall_s, cpu_s = (end - begin for end, begin in zip(self._ended, self._began, strict=True))
        return wall_s / groups, cpu_s / groups


class SenderProcess:
    """A process that sends what it is told to, again and again; a context manager."""

    def __init__(self, namespace: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, orders = context.Pipe()
        self._process = context.Process(target=_serve, args=(namespace, orders))

    def begin(self, send: Callable[..., float], *arguments: object) -> None:
        """Have it run `send`, which returns its CPU seconds a group."""
        self._orders.send((send, arguments))

    def result(self) -> float:
        """What `send` returned."""
        if not self._orders.poll(REPORT_S):
            raise TimeoutError("the sender has not reported")
        return float(self._orders.recv())

    def __enter__(self) -> "SenderProcess":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.send(None)
        self._process.join(30.0)
        self._process.kill()


def _serve(namespace: str, orders: Connection) -> None:
    enter(namespace)
    while (order := orders.recv()) is not None:
        send, arguments = order
        orders.send(send(*arguments))


def moved(watch: Stopwatch, sender: SenderProcess) -> Moved:
    """What both processes have measured, once the sender has reported."""
    sender_s = sender.result()
    wall_s, receiver_s = watch.per_group_s()
    return Moved(1 / wall_s, 1e6 * receiver_s, 1e6 * sender_s)
