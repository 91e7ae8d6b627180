"""Every head over the whole validation split.

Shapes: C classes, L heads.
"""

import torch
import torch.distributed as dist

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.progress import progress
from evaluation.segmentation.confusion import confusion
from evaluation.segmentation.heads import LinearHeads, TokenNorm
from evaluation.segmentation.prediction import Windows, predictions
from evaluation.segmentation.reading import Wholes, read_wholes


@torch.no_grad()
def judge(
    wholes: Wholes,
    backbone: FrozenBackbone,
    norm: TokenNorm,
    heads: LinearHeads,
    windows: Windows,
    bench: Bench,
) -> torch.Tensor:
    """Confusion matrices over the images of all ranks, int64 (L, C, C), the same on every rank."""
    num_classes = len(wholes.classes.values)
    matrices_LCC = torch.zeros(
        len(heads), num_classes, num_classes, dtype=torch.int64, device=bench.device
    )
    own = len(range(bench.rank, len(wholes.pairs), bench.num_ranks))
    with progress(bench, "validation images", own) as done:
        for images, labels in read_wholes(wholes, bench):
            truth_HW = labels[0].to(bench.device)
            size = (truth_HW.shape[0], truth_HW.shape[1])
            every = predictions(images[0], size, backbone, norm, heads, windows, bench)
            for head, predicted_HW in enumerate(every):
                matrices_LCC[head] += confusion(
                    truth_HW.flatten(), predicted_HW.flatten(), num_classes
                )
            done(1)
    if bench.group is not None:
        dist.all_reduce(matrices_LCC, group=bench.group)
    return matrices_LCC
