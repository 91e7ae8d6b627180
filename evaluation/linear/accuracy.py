"""Top-1 and top-5 of every head on a split.

Shapes: N images, D features, H heads.
"""

from dataclasses import dataclass

import torch

from evaluation.bench import Bench
from evaluation.features import FeatureTable
from evaluation.linear.probe import Probe
from evaluation.linear.ranks import sum_over_ranks

CHUNK_IMAGES = 1024
TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """Shares by head; None of a head that diverged. top5 is None where there are five classes or
    fewer, and so nothing to tell."""

    top1: tuple[float | None, ...]
    top5: tuple[float | None, ...] | None

    def best(self) -> int | None:
        """The head with the highest top-1, of equal ones the lowest learning rate's; None: all
        diverged."""
        found = [(share, -head) for head, share in enumerate(self.top1) if share is not None]
        return -max(found)[1] if found else None


@torch.no_grad()
def measure_accuracy(probe: Probe, table: FeatureTable, bench: Bench) -> Accuracy:
    """Accuracy on all images, each rank taking its part. Waits for the others."""
    num_images, num_classes = len(table.features_ND), probe.heads.bias_HC.shape[1]
    hits_2H = torch.zeros(2, len(probe.heads.bias_HC), dtype=torch.int64, device=bench.device)
    for index_N in torch.arange(num_images)[bench.rank :: bench.num_ranks].split(CHUNK_IMAGES):
        features_ND = probe.norm.evaluate(table.features_ND[index_N].to(bench.device))
        labels_N = table.labels[index_N].to(bench.device)
        nearest_NHT = probe.heads(features_ND).topk(min(TOP, num_classes), dim=2).indices
        hit_NHT = nearest_NHT == labels_N[:, None, None]
        hits_2H += torch.stack([hit_NHT[..., 0].sum(0), hit_NHT.any(2).sum(0)])
    sum_over_ranks(hits_2H, bench)
    shares_2H = (hits_2H.double() / num_images).tolist()
    finite_H = probe.heads.finite().tolist()
    top1, top5 = (
        tuple(share if finite else None for share, finite in zip(row, finite_H, strict=True))
        for row in shares_2H
    )
    return Accuracy(top1, top5 if num_classes > TOP else None)
