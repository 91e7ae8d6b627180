"""The backbone as one ONNX file, made by torch's exporter and compared with torch before it counts.

The batch may have any size; the images have the export's.

Shapes: N images of S x S pixels, D features.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from evaluation.errors import EvaluationError
from evaluation.sources.plain_vit import PlainViT

FILE_NAME = "onnx/model.onnx"
INPUT, OUTPUT = "pixel_values", "features"
TOLERANCE = 1e-4
"""As a share of the largest feature: both compute in float32, in another order."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_ONE_FILE_BYTES = 1_800_000_000
"""Beyond it weights lie in a file of their own: protobuf ends at 2 GiB."""


def check_onnx_installed() -> None:
    """Refuse before anything is read.

    Raises:
        EvaluationError: a package is missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"--format=onnx needs {' and '.join(missing)}, which {_is(missing)} not installed; "
            "pip install 'online-synclr[onnx]'."
        )


def write_onnx(vit: PlainViT, folder: Path) -> float:
    """Write `onnx/model.onnx` and run it.

    Returns:
        By how much its features are apart from torch's at most, as a share of the largest one.

    Raises:
        EvaluationError: it cannot be made, or ONNX Runtime computes something else.
        OSError: the disk is full or gone.
    """
    file = folder / FILE_NAME
    file.parent.mkdir()
    images_N3SS = _images(vit, 2)
    num_bytes = sum(value.nbytes for value in vit.model.state_dict().values())
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                vit.model,
                (images_N3SS,),
                file,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=num_bytes > _ONE_FILE_BYTES,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise EvaluationError(
            f"torch cannot export this backbone to ONNX ({first}); leave --format=onnx out."
        ) from None
    return _check(vit, file)


def _check(vit: PlainViT, file: Path) -> float:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for num_images in (1, 3):
        images_N3SS = _images(vit, num_images)
        with torch.inference_mode():
            expected_ND = vit.model(images_N3SS).numpy()
        (found_ND,) = session.run([OUTPUT], {INPUT: images_N3SS.numpy()})
        scale = max(1.0, float(np.abs(expected_ND).max()))
        apart = float(np.abs(found_ND - expected_ND).max()) / scale
        if not apart <= TOLERANCE:
            raise EvaluationError(
                f"ONNX Runtime's features are apart from torch's by {apart:.1g} at a batch of "
                f"{num_images}; leave --format=onnx out."
            )
        largest = max(largest, apart)
    return largest


def _images(vit: PlainViT, num_images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_images)
    return torch.randn((num_images, 3, vit.image_px, vit.image_px), generator=generator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of its own progress; what it refuses it raises."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
