"""What hardware allows two processes that hand groups over in shared memory: nothing but copies.

The rings' own memory and stamps, and no message, header, check or bookkeeping: one process copies
groups into the slots, the other copies them out into a block as large as the pool. Both spin on a
number in shared memory, so neither ever sleeps. What the stream lacks to this is the cost of its
own code; what this lacks to memcpy is the machine's: bytes written by one core are fetched by
another, and two cores share one memory.
"""

import multiprocessing
import time
from ctypes import c_uint64
from math import prod
from typing import Any

import numpy as np

from benchmarks.stamped import NUM_PICTURES, WARM_UP_GROUPS, Shape, pictures
from online_synclr.stream.messages import RingOffer
from online_synclr.stream.ring_memory import GeneratorRing, RingLayout, TrainerRing


def bare_ring_rate(shape: Shape, num_groups: int, num_slots: int, pool_bytes: int) -> float:
    """Groups a second from the end of the warm-up to the last group."""
    total = num_groups + WARM_UP_GROUPS
    group_bytes = prod(shape)
    ring = TrainerRing(RingLayout(num_slots, group_bytes))
    pool = np.zeros((pool_bytes // group_bytes, group_bytes), np.uint8)
    # Touched: else the first round would be page faults.
    pool[:] = 0
    context = multiprocessing.get_context("spawn")
    written, read = context.RawValue(c_uint64), context.RawValue(c_uint64)
    child = context.Process(target=_write, args=(ring.offer, shape, total, written, read))
    child.start()
    try:
        return _read(ring, pool, total, written, read)
    finally:
        child.join(30.0)
        child.kill()
        ring.close()


def _read(ring: TrainerRing, pool: np.ndarray, total: int, written: Any, read: Any) -> float:
    started_s = 0.0
    for position in range(total):
        if position == WARM_UP_GROUPS:
            started_s = time.perf_counter()
        while written.value <= position:
            pass
        ring.read(position, pool[position % len(pool)])
        read.value = position + 1
    return (total - WARM_UP_GROUPS) / (time.perf_counter() - started_s)


def _write(offer: RingOffer, shape: Shape, total: int, written: Any, read: Any) -> None:
    ring = GeneratorRing(offer, prod(shape))
    groups = pictures(shape)
    for position in range(total):
        while position - read.value >= ring.num_slots:
            pass
        ring.write(0, groups[position % NUM_PICTURES])
        ring.sent(1)
        written.value = position + 1
    ring.close()
