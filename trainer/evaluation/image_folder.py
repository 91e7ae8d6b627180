"""A labelled image folder, `<label>/<name>.png`, as one uint8 tensor."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from online_synclr.config import ConfigError
from online_synclr.paths import CHECK_SET_DIR

CHECK_SET = "check_set"
"""Value of `monitor.knn_folder` that names the bundled images."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class LabelledImages:
    """`images_NCHW`: uint8, square; `labels_N`: int64 indices into `names`."""

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor
    names: tuple[str, ...]

    @property
    def num_images(self) -> int:
        """Images of all labels."""
        return self.images_NCHW.shape[0]


def resolve_folder(setting: str) -> Path | None:
    """The folder that `monitor.knn_folder` names; None when it is empty.

    Raises:
        ConfigError: there is no such folder, or it holds fewer than two labels.
    """
    if not setting:
        return None
    folder = CHECK_SET_DIR if setting == CHECK_SET else Path(setting).expanduser()
    if len(_labels(folder)) < 2:
        raise ConfigError(
            f"monitor.knn_folder={setting} is not a folder with at least two sub-folders of images "
            "named after their labels; name another one, or leave it empty for no kNN."
        )
    return folder


def load_images(folder: Path, size_px: int) -> LabelledImages:
    """Read every image, resized to `size_px` x `size_px`; in sorted order of label and name.

    Raises:
        ConfigError: a file is not a readable image.
    """
    names, files = labelled_files(folder)
    images = [load_image(path, size_px) for path, _ in files]
    return LabelledImages(torch.stack(images), torch.tensor([label for _, label in files]), names)


def labelled_files(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """The labels, and every image with the index of its own; in sorted order of both names."""
    names = _labels(folder)
    files = [
        (path, index) for index, name in enumerate(names) for path in _image_files(folder / name)
    ]
    return names, files


def load_image(path: Path, size_px: int) -> torch.Tensor:
    """One image, resized to `size_px` x `size_px`: uint8 (3, size, size).

    Raises:
        ConfigError: it is not readable.
    """
    return resize_square(_read(path), size_px)


def resize_square(image_CHW: torch.Tensor, size_px: int) -> torch.Tensor:
    """Resize one uint8 image, bicubic with antialiasing; returns uint8 (C, size_px, size_px)."""
    if image_CHW.shape[-2:] == (size_px, size_px):
        return image_CHW
    resized = interpolate(
        image_CHW[None].float(), (size_px, size_px), mode="bicubic", antialias=True
    )
    return resized[0].round().clamp(0, 255).byte()


def _labels(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in folder.iterdir() if _image_files(entry)))


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _read(path: Path) -> torch.Tensor:
    try:
        with Image.open(path) as image:
            pixels_HWC = np.array(image.convert("RGB"))
    except OSError as error:
        raise ConfigError(f"monitor.knn_folder: {path} cannot be read ({error}).") from None
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()
