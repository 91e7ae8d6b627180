"""Where an evaluation runs: this process among torchrun's, its device, its folder of caches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.objective.precision import Precision


@dataclass(frozen=True)
class Bench:
    """One rank's place. Without torchrun there is one rank, and no process group.

    cache_dir: features are kept here (`evaluation.features`); None: nowhere.
    cpu_threads: for reading images. seed: of everything random. say: to people; silent on all but
    the first rank. crop_pct: share of the shorter side that a centre crop keeps
    (`evaluation.preprocessing`); None: the backbone's own.
    """

    device: torch.device
    rank: int = 0
    num_ranks: int = 1
    cache_dir: Path | None = None
    batch_images: int = 64
    cpu_threads: int = 1
    seed: int = 0
    precision: Precision = "auto"
    crop_pct: float | None = 1.0
    say: Callable[[str], None] = field(default=lambda text: None)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All ranks, for tensors of the CPU and of `device`; None where there is one."""
        return dist.group.WORLD if self.num_ranks > 1 else None
