"""A labelled folder shared out over the trainers: each reads, holds and embeds its part.

Trainer r of R has the images r, r + R, r + 2 R, ... of the folder's order, so that all have equally
many, or one less, and of every label.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from online_synclr.config import ConfigError
from trainer.collectives import gather_bytes
from trainer.evaluation.image_folder import labelled_files, load_image


@dataclass(frozen=True)
class ImageShare:
    """`images_NCHW`: this trainer's, uint8; `labels_M`: int64, of all images in their own order."""

    images_NCHW: torch.Tensor
    labels_M: torch.Tensor
    index: int
    size: int

    @property
    def largest_share(self) -> int:
        """Images of the trainer that has most."""
        return -(-len(self.labels_M) // self.size)

    @property
    def own_rows(self) -> torch.Tensor:
        """int64 (N,), which of all images this trainer's are."""
        return torch.arange(self.index, len(self.labels_M), self.size)

    def in_order(self, gathered_SLD: torch.Tensor) -> torch.Tensor:
        """Rows of all images in their own order, (M, D).

        Args:
            gathered_SLD: of each of S trainers, filled up to the largest share L.
        """
        return gathered_SLD.transpose(0, 1).flatten(0, 1)[: len(self.labels_M)]


def load_share(
    folder: Path, size_px: int, *, index: int, size: int, group: dist.ProcessGroup | None
) -> ImageShare:
    """Read trainer `index`'s part of a folder, resized to `size_px`. Waits for every trainer.

    Raises:
        ConfigError: a file is no image, or the folder differs from another trainer's.
    """
    names, files = labelled_files(folder)
    _check_same_everywhere(folder, [f"{names[label]}/{path.name}" for path, label in files], group)
    own = [load_image(path, size_px) for path, _ in files[index::size]]
    images_NCHW = torch.stack(own) if own else torch.empty(0, 3, size_px, size_px).byte()
    labels_M = torch.tensor([label for _, label in files])
    return ImageShare(images_NCHW, labels_M, index, size)


def _check_same_everywhere(folder: Path, names: list[str], group: dist.ProcessGroup | None) -> None:
    listed = hashlib.blake2b("\n".join(names).encode(errors="replace"), digest_size=16).digest()
    if len(set(gather_bytes(listed, group))) > 1:
        raise ConfigError(
            f"monitor.knn_folder: {folder} does not hold the same files on every machine that "
            "trains; copy it anew, or name a folder that all of them share."
        )
