"""Small parts that the tests of the linear probe share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.bench import Bench
from evaluation.features import FeatureTable
from evaluation.linear.norm import FeatureNorm
from evaluation.linear.order import epoch_batches
from evaluation.linear.probe import Probe
from evaluation.linear.probe_file import ProbeFile
from evaluation.linear.protocol import Protocol
from evaluation.linear.source import CachedSource, FeatureSource
from evaluation.linear.training import train_probe

CPU = torch.device("cpu")


def clusters(
    num_images: int, *, classes: int = 3, dims: int = 5, spread: float = 1.0, seed: int = 0
) -> FeatureTable:
    """Gaussian clusters of shifted and scaled features; the centres do not depend on the seed."""
    centres = 2 * torch.randn(classes, dims, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (num_images,), generator=generator)
    noise = torch.randn(num_images, dims, generator=generator)
    features = (centres[labels] + spread * noise) * torch.linspace(0.1, 4, dims) + 3
    return FeatureTable(features, labels, tuple(f"class {index}" for index in range(classes)))


@dataclass
class StatisticsSource:
    """Kept features whose norm is that of each batch, as with augmentation; counts its epochs."""

    table: FeatureTable
    protocol: Protocol
    bench: Bench
    stop_in_epoch: int = -1

    def __post_init__(self) -> None:
        self.epochs: list[int] = []

    @property
    def num_images(self) -> int:
        return len(self.table.labels)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.epochs.append(epoch)
        for number, index in enumerate(
            epoch_batches(self.num_images, self.protocol, self.bench, epoch)
        ):
            if epoch == self.stop_in_epoch and number == 1:
                raise KeyboardInterrupt
            yield self.table.features_ND[index], self.table.labels[index]


def train(
    table: FeatureTable,
    protocol: Protocol,
    bench: Bench,
    *,
    exact: bool = True,
    source: FeatureSource | None = None,
    key: str = "probe",
) -> Probe:
    """A trained probe; saved after each epoch where the bench has a cache."""
    dims = table.features_ND.shape[1]
    norm = FeatureNorm.of(table.features_ND) if exact else FeatureNorm(dims, exact=False)
    default = CachedSource if exact else StatisticsSource
    probe = Probe(norm, len(table.class_names), protocol, bench)
    file = ProbeFile(key, bench, every_s=0.0)
    file.load(probe)
    train_probe(probe, source or default(table, protocol, bench), protocol, bench, file)
    return probe


def bench(rank: int = 0, num_ranks: int = 1, cache_dir: Path | None = None) -> Bench:
    """On the CPU, silent."""
    return Bench(CPU, rank=rank, num_ranks=num_ranks, cache_dir=cache_dir, seed=7)


def close(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """The same but for rounding, which is some 1e-6 of these weights."""
    assert other is not None
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)
