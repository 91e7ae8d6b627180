"""A trainer's batch dealt out into parts of equally many images.

The parts have equally many masked crops as well, give or take one of each image's: the mask of the
whole batch decides which images go together, so that no part is heavier than another and shapes
hardly change from step to step.

Shapes: N images of this rank, n = N / parts of a part, G global crops of each image, K = G * N,
T tokens of a global crop, R masked tokens.
"""

from dataclasses import dataclass

import torch

from trainer.objective.masking import Mask
from trainer.objective.rng import to_device


@dataclass(frozen=True, slots=True)
class Part:
    """Some images of a batch.

    `images_n` int64, rising, on the CPU: their numbers within the batch of `num_images`; `rows_n`:
    the same on the batch's device. `mask`, on that device: of their global crops, crop by crop;
    none without masked images. `tokens`: their masked tokens, were those of all parts laid one
    after another.
    """

    images_n: torch.Tensor
    rows_n: torch.Tensor
    num_images: int
    mask: Mask | None
    tokens: slice

    @property
    def share(self) -> float:
        """How many of the batch's images."""
        return len(self.images_n) / self.num_images

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole batch, in its own order."""
        return len(self.images_n) == self.num_images


def deal(num_images: int, num_parts: int, mask: Mask | None, *, device: torch.device) -> list[Part]:
    """Deal N images out into parts.

    Args:
        num_images: N.
        num_parts: must divide N.
        mask: of the whole batch, on the CPU; none without masked images.
        device: of the batch.

    Returns:
        The parts; every image is in one of them. Nothing waits for the device.

    Raises:
        ValueError: the images cannot be dealt out evenly.
    """
    if num_images % num_parts:
        raise ValueError(f"{num_images} images cannot be dealt out into {num_parts} equal parts")
    masked_N = torch.zeros(num_images, dtype=torch.int64)
    if mask is not None:
        masked_N = mask.mask_KT.any(dim=1).view(-1, num_images).sum(dim=0)
    order_N = masked_N.argsort(descending=True, stable=True)
    parts: list[Part] = []
    end = 0
    for first in range(num_parts):
        images_n = order_N[first::num_parts].sort().values
        of_part = None if mask is None else _of_images(mask, images_n, num_images)
        start, end = end, end + (0 if of_part is None else len(of_part.index_R))
        parts.append(
            Part(
                images_n=images_n,
                rows_n=to_device(images_n, device),
                num_images=num_images,
                mask=None if of_part is None else of_part.to(device),
                tokens=slice(start, end),
            )
        )
    return parts


def _of_images(mask: Mask, images_n: torch.Tensor, num_images: int) -> Mask:
    mask_KT = mask.mask_KT.unflatten(0, (-1, num_images))[:, images_n].flatten(0, 1)
    return Mask(mask_KT, mask_KT.flatten().nonzero()[:, 0])
