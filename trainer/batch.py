"""From sampled groups to the tensors of one step.

    list[Group] -> n of m images each (seeded) -> one uint8 tensor -> device, asynchronously

The groups are the pool's own memory, lent until the next batch is sampled. On the CPU they are
copied out when the batch is built. Where the pool is pinned a GPU reads them itself, and the batch
may be queued long before it has: `wait_read` must come before the next sampling.

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
from trainer.device_copy import DeviceCopy, is_pinned
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
        self._copy: DeviceCopy | None = None

    def __call__(self, groups: Sequence[Group], step: int) -> Batch:
        """Build the batch. On CUDA the copy is only queued: nothing waits for the device.

        Raises:
            ValueError: the groups differ in image size, or one has fewer than n images.
        """
        images_NCHW = self._images(groups, step)
        captions = [caption_id(group.recipe.caption) for group in groups]
        concepts = [concept_id(group.recipe.concept) for group in groups]
        return Batch(
            images_NCHW=images_NCHW,
            captions_N2=self._to_device(self._identities(captions)),
            concepts_N2=self._to_device(self._identities(concepts)),
            images_N2=self._to_device(image_pairs(len(images_NCHW), self._trainer_index)),
            num_groups=len(groups),
        )

    def wait_read(self) -> None:
        """Wait until the last batch's groups have been read and may be written over.

        Waits for the GPU to have copied them, which it does beside the step before; on the CPU it
        returns at once.
        """
        if self._copy is not None:
            self._copy.wait()

    def _images(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        parts = self._choose(groups, step)
        if self._device.type != "cuda":
            return stack(parts)
        if not is_pinned(groups[0].images_mchw):
            return self._to_device(stack(parts, pin_memory=True))
        if self._copy is None:
            self._copy = DeviceCopy(self._device)
        return self._copy(parts)

    def _choose(self, groups: Sequence[Group], step: int) -> list[np.ndarray]:
        """The batch's images in their order, as views: whole groups where all of one are used."""
        num = self._images_per_group
        seed = derive_seed("image choice", self._run_seed, self._trainer_index, step)
        random = np.random.default_rng(seed)
        parts: list[np.ndarray] = []
        for group in groups:
            images_mchw = group.images_mchw
            chosen = choose_images(len(images_mchw), num, random)
            if num == len(images_mchw):
                parts.append(images_mchw)
            else:
                parts.extend(images_mchw[image : image + 1] for image in chosen)
        return parts

    def _identities(self, identities: Sequence[bytes]) -> torch.Tensor:
        pairs_B2 = id_pairs(identities)
        return pairs_B2.repeat_interleave(self._images_per_group, dim=0)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            return tensor
        # Pinned memory is not reused before the copy is done: torch's allocator sees to it.
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)


def stack(parts: Sequence[np.ndarray], *, pin_memory: bool = False) -> torch.Tensor:
    """Images of several arrays, (any, C, H, W), in new memory: (N, C, H, W), uint8.

    Raises:
        ValueError: they differ in image size.
    """
    stacked = torch.empty(
        (sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.uint8, pin_memory=pin_memory
    )
    np.concatenate(parts, out=stacked.numpy())
    return stacked


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
