"""A split whose images are rows of a Hugging Face table.

Shapes: N rows, C classes.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evaluation.data_sources.images import digest, digest_array, digest_files, open_rgb
from evaluation.data_sources.labelled import Labelled
from evaluation.errors import EvaluationError
from evaluation.splits import Label


class RowSplit(Labelled):
    """Decodes the image column itself, so that a bad image is named and others stay readable.

    Pickled it is a reference to the table's files, not their contents.
    """

    def __init__(
        self,
        name: str,
        table: Any,
        image_column: str,
        labels: torch.Tensor,
        class_names: Sequence[str],
    ) -> None:
        """`table`: a `datasets.Dataset` with N rows. labels: int64 (N,) or bool (N, C)."""
        import datasets

        super().__init__(name, labels, class_names)
        self._fingerprint = str(table._fingerprint)
        undecoded = table.with_format(None).select_columns([image_column])
        self._table = undecoded.cast_column(image_column, datasets.Image(decode=False))
        self._files = tuple(str(file["filename"]) for file in table.cache_files)
        self._image_column = image_column

    @cached_property
    def identity(self) -> str:
        """Hex digest of the table's fingerprint, its files' sizes and times, labels and classes.

        `datasets` changes the fingerprint with whatever is done to a table, and with names and
        times of the files that it was made of.
        """
        return digest(
            self._fingerprint,
            digest_files(Path("/"), self._files),
            len(self),
            digest_array(self._labels.numpy()),
            *self._class_names,
        )

    def __getitem__(self, index: int) -> tuple[Image.Image, Label]:
        """One image, RGB, and its label.

        Raises:
            EvaluationError: the image is missing or unreadable.
        """
        cell = self._table[index][self._image_column]
        shown = f"in row {index} of {self._name}"
        if cell is None:
            raise EvaluationError(f"there is no image {shown}; filter such rows out.")
        content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])
        return open_rgb(content, shown), self._label(index)
