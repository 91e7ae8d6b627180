"""Where a probe's training features come from.

Shapes: N images of this rank's part of a batch, D features.
"""

from collections.abc import Iterator
from typing import Protocol as Interface

import torch

from evaluation.bench import Bench
from evaluation.features import FeatureTable
from evaluation.linear.order import epoch_batches
from evaluation.linear.protocol import Protocol

ROOM_SHARE = 0.5
"""Of a GPU's free memory that features may take; more of them stay on the host."""


class FeatureSource(Interface):
    """Features of the training split, epoch after epoch."""

    @property
    def num_images(self) -> int:
        """Of the split."""

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's float32 (N, D) and int64 (N,) of each step, on the bench's device."""


class CachedSource:
    """Features that were extracted once, without augmentation."""

    def __init__(self, table: FeatureTable, protocol: Protocol, bench: Bench) -> None:
        self._protocol = protocol
        self._bench = bench
        device = bench.device if _fits(table.features_ND, bench.device) else torch.device("cpu")
        self._features_ND = table.features_ND.to(device)
        self._labels_N = table.labels.to(device)

    @property
    def num_images(self) -> int:
        """Of the split."""
        return len(self._features_ND)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of each step."""
        device = self._bench.device
        for index_N in epoch_batches(self.num_images, self._protocol, self._bench, epoch):
            place_N = index_N.to(self._features_ND.device)
            yield self._features_ND[place_N].to(device), self._labels_N[place_N].to(device)


def _fits(features_ND: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return features_ND.nbytes < ROOM_SHARE * free_bytes
