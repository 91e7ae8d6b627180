"""A split whose images are files.

Shapes: N images, C classes.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluation.data_sources.images import digest, digest_array, digest_files, open_rgb
from evaluation.data_sources.labelled import Labelled
from evaluation.splits import Label


class FileSplit(Labelled):
    """Images below `root`, by name. Small when pickled: names lie in one block of bytes.

    A list of a million strings would also be copied, page by page, into every worker process that
    only counts references to them.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        files: Sequence[str],
        labels: Sequence[int] | torch.Tensor,
        class_names: Sequence[str],
    ) -> None:
        """Nothing is read yet.

        Args:
            files: N, relative to `root`; their order is the split's.
            labels: of each a class's index, or bool (N, C).
        """
        super().__init__(name, torch.as_tensor(labels), class_names)
        self._root = root
        self._files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)

    @cached_property
    def identity(self) -> str:
        """Hex digest of names, sizes and times of the files, and of labels and classes."""
        files = digest_files(self._root, (os.fsdecode(file) for file in self._files))
        return digest(files, digest_array(self._labels.numpy()), *self._class_names)

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, and its label.

        Raises:
            EvaluationError: the file is missing or no image.
        """
        path = self._root / os.fsdecode(self._files[index])
        return open_rgb(path, str(path)), self._label(index)
