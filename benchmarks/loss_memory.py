"""Several ways to compute one loss and its gradients: peak memory, and time in turn."""

import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.measuring import interleave, ratio, spread
from benchmarks.peak_memory import allocated_by
from trainer.objective.patch_scores import CHUNK_LOGITS

COLUMNS = ("way", "peak MB", "ms", "time to that of chunks")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOGITS = CHUNK_LOGITS if DEVICE.type == "cuda" else CHUNK_LOGITS // 16
"""Logits of a chunk: on two CPU cores a run with the project's own would take half an hour."""


def measure(
    ways: Mapping[str, Callable[[], None]], repeats: int, device: torch.device
) -> list[list[str]]:
    """Cells for COLUMNS of every way; `chunks` must be one of them."""
    times = interleave({way: timed(work, device) for way, work in ways.items()}, repeats)
    return [
        [
            way,
            f"{allocated_by(work, device).peak_bytes / 1e6:,.0f}",
            f"{spread([1e3 * value for value in times[way]]):,.0f}",
            f"{ratio(times[way], times['chunks']):.2f}",
        ]
        for way, work in ways.items()
    ]


def timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """A measurement of the seconds that `work` takes, the device's included."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return seconds
