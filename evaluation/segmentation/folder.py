"""Where images and their label maps lie: the layout of ADE20k's challenge data.

DIR/images/training/*.jpg          DIR/images/validation/*.jpg
DIR/annotations/training/*.png     DIR/annotations/validation/*.png     one channel, same names
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.data_sources.images import digest_files, is_image
from evaluation.errors import EvaluationError

ADE20K = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
WORDS = {"training": ("training", "train"), "validation": ("validation", "val", "valid")}
"""By split, the names that its folders may have."""


@dataclass(frozen=True)
class Pair:
    """An image and its label map."""

    image: Path
    labels: Path


@dataclass(frozen=True)
class SegmentationFolder:
    """All pairs below `root`, each split in sorted order."""

    root: Path
    training: tuple[Pair, ...]
    validation: tuple[Pair, ...]

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.root.resolve().name

    @cached_property
    def identity(self) -> str:
        """Hex digest of names, sizes and times of all files."""
        pairs = self.training + self.validation
        files = [path for pair in pairs for path in (pair.image, pair.labels)]
        return digest_files(self.root, [str(path.relative_to(self.root)) for path in files])


def find_pairs(root: Path) -> SegmentationFolder:
    """The pairs of both splits.

    Raises:
        EvaluationError: not laid out so, or an image has no label map.
    """
    return SegmentationFolder(root, _split(root, "training"), _split(root, "validation"))


def _split(root: Path, split: str) -> tuple[Pair, ...]:
    images = _folder(root, "images", split)
    labels = _folder(root, "annotations", split)
    pairs = tuple(
        Pair(image, labels / f"{image.stem}.png")
        for image in sorted(images.iterdir())
        if is_image(image.name)
    )
    missing = [pair for pair in pairs if not pair.labels.is_file()]
    if missing:
        raise EvaluationError(
            f"{missing[0].image} has no label map {missing[0].labels} ({len(missing)} of "
            f"{len(pairs)} have none); add them, or take the images out."
        )
    if not pairs:
        raise EvaluationError(f"{images} holds no images; fill it, or name another --data.")
    return pairs


def _folder(root: Path, kind: str, split: str) -> Path:
    for word in WORDS[split]:
        if (root / kind / word).is_dir():
            return root / kind / word
    raise EvaluationError(
        f"--data {root}: {root / kind / split} is not there; segmentation takes a folder with "
        "images/training, images/validation, annotations/training and annotations/validation, as "
        f"ADE20k's is ({ADE20K})."
    )
