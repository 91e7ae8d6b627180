"""Where an evaluation runs: this process among torchrun's, its device, its folder of caches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Bench:
    """One rank's place. Without torchrun there is one rank, and no process group.

    cache_dir: features are kept here (`evaluation.features`); None: nowhere.
    cpu_threads: for reading images. seed: of everything random. say: to people; silent on all but
    the first rank.
    """

    device: torch.device
    rank: int = 0
    num_ranks: int = 1
    cache_dir: Path | None = None
    batch_images: int = 64
    cpu_threads: int = 1
    seed: int = 0
    precision: str = "auto"
    say: Callable[[str], None] = field(default=lambda text: None)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0
