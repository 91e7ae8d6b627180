"""Features with labels, made up: classes that overlap, so that every penalty matters."""

import torch

from evaluation.features import FeatureTable
from evaluation.finegrained.parts import Parts

FEATURES, CLASSES = 8, 4


def class_names(count: int = CLASSES) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


def one_class_table(num_images: int, seed: int) -> FeatureTable:
    """Labels int64; features of quite different scales, the last one constant."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(num_images) % CLASSES
    features_ND = torch.randn(num_images, FEATURES, generator=generator)
    features_ND[torch.arange(num_images), labels_N] += 1.0
    features_ND *= 10.0 ** torch.arange(FEATURES).sub(3)
    features_ND[:, -1] = 0.1
    return FeatureTable(features_ND, labels_N, class_names())


def several_classes_table(num_images: int, seed: int) -> FeatureTable:
    """Labels bool; the first image has every class."""
    table = one_class_table(num_images, seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    noise_NC = torch.rand(num_images, CLASSES, generator=generator)
    labels_NC = torch.nn.functional.one_hot(table.labels, CLASSES).bool() | (noise_NC > 0.8)
    labels_NC[0] = True
    return FeatureTable(table.features_ND, labels_NC, table.class_names)


def one_class_parts() -> Parts:
    return Parts(one_class_table(80, 1), one_class_table(60, 2), one_class_table(100, 3), "")


def several_classes_parts() -> Parts:
    tables = (several_classes_table(80, 1), several_classes_table(60, 2))
    return Parts(*tables, several_classes_table(100, 3), "")
