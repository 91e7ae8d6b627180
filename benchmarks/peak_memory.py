"""Bytes that torch's allocator hands out while something runs, temporaries included.

On the CPU they are read from the profiler's trace, which notes every allocation and release, those
inside of operators too; what libraries allocate behind torch's back (oneDNN's scratch space) is not
in it. On CUDA the caching allocator keeps the count itself.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# Read when the first profile starts: without it each one prints lines of its own.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Allocated:
    """`peak_bytes`: most held at once, beyond what was held before; `largest_bytes`: at one go.

    `largest_bytes` is known on the CPU only, and 0 elsewhere.
    """

    peak_bytes: int
    largest_bytes: int


def allocated_by(work: Callable[[], object], device: torch.device = CPU) -> Allocated:
    """Run `work` once and count what it allocated on `device`."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return Allocated(torch.cuda.max_memory_allocated(device) - before, 0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = peak = largest = 0
    for change in _changes(profiler):
        held += change
        peak, largest = max(peak, held), max(largest, change)
    return Allocated(peak, largest)


def _changes(profiler: profile) -> list[int]:
    """Bytes of every allocation, and minus those of every release, in the order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    # They come thread by thread, and a backward pass may have run in another one.
    changes.sort(key=lambda event: float(event["ts"]))
    return [event["args"]["Bytes"] for event in changes]
