"""Features of freshly augmented images, from the frozen backbone, on all ranks.

Workers decode; this process waits for them, and they for it once their queues are full. Each image
is decoded once an epoch, and one forward pass feeds all heads.

Shapes: N images of this rank's part of a batch, K of a chunk, D features.
"""

from collections.abc import Iterator

import torch
from torchvision.transforms.functional import pil_to_tensor

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.feature_sharing import raised_by_all
from evaluation.linear.augmented import AugmentedSplit
from evaluation.linear.order import epoch_batches
from evaluation.linear.protocol import Protocol
from evaluation.preprocessing import normalise
from evaluation.reading import Batch, read_batches, workers_for
from evaluation.splits import LabelledSplit
from trainer.objective.precision import autocast


class StreamedSource:
    """A new crop and flip of each image in each epoch. Chunks are of the bench's batch size."""

    def __init__(
        self, backbone: FrozenBackbone, split: LabelledSplit, protocol: Protocol, bench: Bench
    ) -> None:
        self._backbone = backbone
        self._split = split
        self._protocol = protocol
        self._bench = bench

    @property
    def num_images(self) -> int:
        """Of the split."""
        return len(self._split)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of each step.

        Raises:
            EvaluationError: an image cannot be read; on all ranks.
        """
        batches = epoch_batches(self.num_images, self._protocol, self._bench, epoch)
        chunks = [index_N.split(self._bench.batch_images) for index_N in batches]
        read = self._read(epoch, [chunk_K for batch in chunks for chunk_K in batch])
        for batch in chunks:
            # Within a step: the others would wait in the sum of the gradients for ever.
            with raised_by_all(self._bench):
                parts = [self._embed(next(read)) for _ in batch]
            features, labels = zip(*parts, strict=True)
            yield torch.cat(features), torch.cat(labels)

    def _read(self, epoch: int, chunks: list[torch.Tensor]) -> Iterator[Batch]:
        device = self._bench.device
        return read_batches(
            AugmentedSplit(self._split, self._backbone.image_px, self._bench.seed, epoch),
            pil_to_tensor,
            [chunk_K.tolist() for chunk_K in chunks],
            num_workers=workers_for(device, self._bench.cpu_threads),
            pin_memory=device.type == "cuda",
        )

    @torch.no_grad()
    def _embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One chunk's features and labels, on the device."""
        backbone, device = self._backbone, self._bench.device
        pixels_K3SS = batch.images_N3PP.to(device, non_blocking=True)
        images_K3SS = normalise(pixels_K3SS, backbone.mean, backbone.std)
        with autocast(self._bench.precision, device):
            features_KD = backbone.features(images_K3SS)
        return features_KD.float(), batch.labels.to(device, non_blocking=True)
