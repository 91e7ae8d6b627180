"""Which images each step takes, and which of them each rank takes.

Shapes: N images of the training split.
"""

import torch

from evaluation.bench import Bench
from evaluation.linear.protocol import Protocol
from online_synclr.seeds import derive_seed


def num_steps(num_images: int, protocol: Protocol) -> int:
    """Of an epoch. What fills no whole batch is left out, other images in each epoch."""
    return num_images // protocol.batch_images


def epoch_batches(
    num_images: int, protocol: Protocol, bench: Bench, epoch: int
) -> list[torch.Tensor]:
    """This rank's part of each step's batch: int64 indices.

    The batches are the same with any number of ranks; the ranks' parts differ by at most one image.
    """
    seed = derive_seed("linear probe order", bench.seed, epoch)
    order_N = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    whole = order_N[: num_steps(num_images, protocol) * protocol.batch_images]
    batches = whole.split(protocol.batch_images)
    return [batch[bench.rank :: bench.num_ranks] for batch in batches]
