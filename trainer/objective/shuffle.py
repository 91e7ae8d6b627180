"""The control experiment: positives that are images of different captions.

Shapes: N = B * n images of B groups, group by group.
"""

import torch


def exchanged(num_images: int, images_per_group: int, generator: torch.Generator) -> torch.Tensor:
    """For each image, the row whose identity it takes: int64 (N,), a permutation.

    Image j of every group goes d_j groups on along a random circle of the groups, with d_0..d_n-1
    distinct: every new class has n images again, and no two of them are of one group as long as
    there are at least n groups (with fewer, as few as possible are).

    Raises:
        ValueError: the images are not whole groups.
    """
    if num_images % images_per_group:
        raise ValueError(f"{num_images} images are not groups of {images_per_group}")
    num_groups = num_images // images_per_group
    circle_B = torch.randperm(num_groups, generator=generator)
    place_B = circle_B.argsort()
    shifts_n = torch.randperm(max(num_groups, images_per_group), generator=generator)
    shifts_n = shifts_n[:images_per_group] % num_groups
    groups_Bn = circle_B[(place_B[:, None] + shifts_n) % num_groups]
    return (groups_Bn * images_per_group + torch.arange(images_per_group)).flatten()
