"""How well pixels are classified, from one matrix over all images.

Shapes: P pixels, C classes.
"""

import torch

from evaluation.segmentation.classes import IGNORED


def confusion(truth_P: torch.Tensor, predicted_P: torch.Tensor, num_classes: int) -> torch.Tensor:
    """How many pixels of class i were taken for class j: int64 (C, C), [i, j].

    Args:
        truth_P: integers; pixels that are `IGNORED` are left out.
        predicted_P: integers below C.
    """
    counts = truth_P != IGNORED
    cells = truth_P[counts].long() * num_classes + predicted_P[counts].long()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def pixel_metrics(confusion_CC: torch.Tensor) -> dict[str, float]:
    """mIoU, pixel accuracy and mean accuracy of the classes, as shares.

    IoU of a class = true positives / (true positives + false positives + false negatives). Classes
    that are neither there nor predicted take no part in the mean; the mean accuracy is over those
    that are there (as mmsegmentation's IoUMetric computes them).
    """
    matrix_CC = confusion_CC.double().cpu()
    right_C, there_C, said_C = matrix_CC.diagonal(), matrix_CC.sum(1), matrix_CC.sum(0)
    union_C = there_C + said_C - right_C
    return {
        "miou": (right_C / union_C)[union_C > 0].mean().item(),
        "pixel_accuracy": (right_C.sum() / there_C.sum()).item(),
        "mean_class_accuracy": (right_C / there_C)[there_C > 0].mean().item(),
    }


def class_ious(confusion_CC: torch.Tensor) -> list[float | None]:
    """IoU of each class; None where it is neither there nor predicted."""
    matrix_CC = confusion_CC.double().cpu()
    right_C = matrix_CC.diagonal()
    union_C = matrix_CC.sum(0) + matrix_CC.sum(1) - right_C
    pairs = zip(right_C.tolist(), union_C.tolist(), strict=True)
    return [right / union if union else None for right, union in pairs]
