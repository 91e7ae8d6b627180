"""A training split as a probe with augmentation sees it in one epoch: random crop and flip.

An image's crop and flip follow from the seed, the epoch and the image alone, so they do not depend
on ranks, on worker processes or on where a killed run went on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from evaluation.splits import Label, LabelledSplit
from online_synclr.seeds import derive_seed

CROP_SCALE = (0.08, 1.0)
"""Share of the image's area: torchvision's default, as in the public code."""
CROP_RATIO = (3 / 4, 4 / 3)
FLIP_SHARE = 0.5


@dataclass(frozen=True)
class AugmentedSplit:
    """`split` in epoch `epoch`: a random part of each image, resized to `image_px` a side."""

    split: LabelledSplit
    image_px: int
    seed: int
    epoch: int

    @property
    def name(self) -> str:
        """Of data set and split."""
        return self.split.name

    @property
    def identity(self) -> str:
        """Hex digest of the images before they are augmented."""
        return self.split.identity

    @property
    def class_names(self) -> Sequence[str]:
        """Names, by index."""
        return self.split.class_names

    def __len__(self) -> int:
        """Images."""
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, augmented, and its label. Raises EvaluationError: unreadable."""
        image, label = self.split[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("linear probe view", self.seed, self.epoch, index))
            box = RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO))
            flipped = bool(torch.rand(()) < FLIP_SHARE)
        side = [self.image_px, self.image_px]
        view = resized_crop(image, *box, side, InterpolationMode.BICUBIC)
        return hflip(view) if flipped else view, label
