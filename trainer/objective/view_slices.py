"""How many samples are worked on at a time.

A GPU takes them all. A CPU takes so few that they stay in its cache between two operations, and
that memory freed by one is there for the next: more at once cost it several times as long.
"""

from collections.abc import Iterator

import torch

SLICE_BYTES = 2**20
"""Of samples in float32 for each thread: one crop of 224 px, or nine of 96. A core's own cache has
1 or 2 MiB in servers of today; smaller slices cost more calls than they gain."""


def slices(num: int, *, sample_bytes: int, device: torch.device) -> Iterator[slice]:
    """Consecutive parts of `num` samples, that cover them all."""
    size = num
    if device.type == "cpu":
        size = max(1, torch.get_num_threads() * SLICE_BYTES // sample_bytes)
    for start in range(0, num, max(1, size)):
        yield slice(start, min(num, start + size))
