"""From pinned groups to a tensor on the GPU, without another copy on the host.

    pool's places --a stream of its own--> device tensor --event--> the stream of the step

The copies start at once, beside what is still queued on the step's stream. The places are lent
until the next batch is sampled: whoever samples has `wait` called before.
"""

from collections.abc import Sequence

import numpy as np
import torch


class DeviceCopy:
    """Copies for one trainer on `device` (CUDA)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def __call__(self, parts: Sequence[np.ndarray]) -> torch.Tensor:
        """Queue the copy of `parts` (uint8, (any, C, H, W), pinned), one after the other.

        Returns:
            All images, (N, C, H, W), on the device; the current stream waits for them.
        """
        current = torch.cuda.current_stream(self._device)
        # Allocated on the copies' own stream: a block of the current one may be in use by what is
        # queued there, and the copies would have to wait for it.
        with torch.cuda.stream(self._stream):
            out_NCHW = torch.empty(
                (sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.uint8, device=self._device
            )
            fill(out_NCHW, parts)
            self._copied.record()
        current.wait_event(self._copied)
        out_NCHW.record_stream(current)
        return out_NCHW

    def wait(self) -> None:
        """Wait until the last batch's places have been read; they were long ago, mostly."""
        self._copied.synchronize()


def fill(out_NCHW: torch.Tensor, parts: Sequence[np.ndarray]) -> None:
    """Copy `parts` into `out_NCHW`, one after the other; asynchronously where that is possible."""
    start = 0
    for part in parts:
        out_NCHW[start : start + len(part)].copy_(torch.from_numpy(part), non_blocking=True)
        start += len(part)


def is_pinned(images: np.ndarray) -> bool:
    """Whether CUDA can read them where they are."""
    return torch.from_numpy(images).is_pinned()
