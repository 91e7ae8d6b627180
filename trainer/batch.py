"""From sampled groups to the tensors of one step.

    list[Group] -> n of m images each (seeded) -> one pinned uint8 tensor -> device, asynchronously

Shapes: B groups of this trainer, n images of each, N = B * n images, H x W pixels. Images lie
group by group: image i belongs to group i // n.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from online_synclr.caption_identity import caption_id
from online_synclr.seeds import derive_seed
from online_synclr.stream.group import Group
from trainer.objective.ids import id_pairs, image_pairs


@dataclass(frozen=True, slots=True)
class Batch:
    """One trainer's share of a step.

    `images_NCHW`: uint8 on the device. `captions_N2`, `concepts_N2`: 128-bit identities as two
    int64 each; equal captions have equal identities whoever rendered them. `images_N2`: alike,
    different for every image of the step over all trainers. `num_groups`: B.
    """

    images_NCHW: torch.Tensor
    captions_N2: torch.Tensor
    concepts_N2: torch.Tensor
    images_N2: torch.Tensor
    num_groups: int


class BatchMaker:
    """Builds the batches of one trainer.

    Which images of a group are used depends on the run's seed, the trainer and the step alone.
    """

    def __init__(
        self, *, images_per_group: int, run_seed: int, trainer_index: int, device: torch.device
    ) -> None:
        self._images_per_group = images_per_group
        self._run_seed = run_seed
        self._trainer_index = trainer_index
        self._device = device

    def __call__(self, groups: Sequence[Group], step: int) -> Batch:
        """Build the batch. On CUDA the copy is only queued: nothing waits for the device.

        Raises:
            ValueError: the groups differ in image size, or one has fewer than n images.
        """
        images_NCHW = self._stack(groups, step)
        captions = [caption_id(group.recipe.caption) for group in groups]
        concepts = [concept_id(group.recipe.concept) for group in groups]
        return Batch(
            images_NCHW=self._to_device(images_NCHW),
            captions_N2=self._to_device(self._identities(captions)),
            concepts_N2=self._to_device(self._identities(concepts)),
            images_N2=self._to_device(image_pairs(len(images_NCHW), self._trainer_index)),
            num_groups=len(groups),
        )

    def _stack(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        num = self._images_per_group
        shape = groups[0].images_mchw.shape[1:]
        stacked = torch.empty(
            (len(groups) * num, *shape), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )
        out = stacked.numpy()
        seed = derive_seed("image choice", self._run_seed, self._trainer_index, step)
        random = np.random.default_rng(seed)
        for index, group in enumerate(groups):
            chosen = choose_images(len(group.images_mchw), num, random)
            np.stack([group.images_mchw[image] for image in chosen], out=out[index * num :][:num])
        return stacked

    def _identities(self, identities: Sequence[bytes]) -> torch.Tensor:
        pairs_B2 = id_pairs(identities)
        return pairs_B2.repeat_interleave(self._images_per_group, dim=0)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            return tensor
        # Pinned memory is not reused before the copy is done: torch's allocator sees to it.
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)


def choose_images(available: int, wanted: int, random: np.random.Generator) -> list[int]:
    """`wanted` different images of a group in random order, or all of them in their own order.

    Raises:
        ValueError: the group has fewer.
    """
    if wanted > available:
        raise ValueError(f"a group has {available} images, but a step uses {wanted} of each")
    if wanted == available:
        return list(range(available))
    chosen: list[int] = random.choice(available, wanted, replace=False).tolist()
    return chosen


def concept_id(concept: str) -> bytes:
    """The concept's identity: 16 bytes."""
    return hashlib.blake2b(concept.encode("utf-8", "surrogatepass"), digest_size=16).digest()
