"""Accuracy on val/: whole pictures, no augmentation, each judged once by one rank.

Shapes: N images, S pixels a side of what was read, g of a global crop.
"""

import torch
import torch.distributed as dist

from online_synclr.config import Config
from trainer.distributed import Trainers
from trainer.evaluation.features import normalise
from trainer.objective.precision import autocast
from trainer.supervised.folder import LabelledFiles
from trainer.supervised.loading import Share, whole_batches
from trainer.supervised.network import Classifier


@torch.no_grad()
def accuracies(
    networks: tuple[Classifier, ...],
    files: LabelledFiles,
    share: Share,
    config: Config,
    trainers: Trainers,
) -> list[float]:
    """Each network's share of pictures that got their class, the same on all ranks.

    The pictures' shorter side is S, and their middle g x g is judged. Waits for all ranks.

    Raises:
        PictureError: a picture cannot be read.
    """
    correct = torch.zeros(len(networks), device=trainers.device)
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    for batch in whole_batches(files, share):
        images_N3gg = _middle(batch.images_N3SS.to(trainers.device), config.trainer.crops.global_px)
        labels_N = batch.labels_N.to(trainers.device)
        with autocast(config.trainer.precision, trainers.device):
            for number, network in enumerate(networks):
                # Eager: the last batch has a size of its own and would need a graph.
                with torch.compiler.set_stance("force_eager"):
                    found_N = network(images_N3gg).argmax(dim=1)
                correct[number] += (found_N == labels_N).sum()
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    if trainers.device_group is not None:
        dist.all_reduce(correct, group=trainers.device_group)
    return [number / len(files) for number in correct.tolist()]


def _middle(images_N3SS: torch.Tensor, px: int) -> torch.Tensor:
    start = (images_N3SS.shape[-1] - px) // 2
    return normalise(images_N3SS[..., start : start + px, start : start + px])
