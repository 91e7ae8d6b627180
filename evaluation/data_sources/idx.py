"""Arrays in the idx format of MNIST and its kin, plain or gzipped.

Two zero bytes, a type code, the number of dimensions; each dimension's size as a big-endian uint32;
the values (https://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from evaluation.errors import EvaluationError

UINT8 = 0x08
"""The only type of values that labelled images use."""


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """The uint8 array in a file; a name that ends in .gz is unpacked.

    Raises:
        EvaluationError: missing, damaged, of another type or number of dimensions.
    """
    data = _read(path)
    if len(data) < 4 or data[:3] != bytes([0, 0, UINT8]) or data[3] != num_dimensions:
        raise EvaluationError(
            f"{path} does not begin as an idx file of bytes in {num_dimensions} dimensions does; "
            "get it again."
        )
    start = 4 + 4 * num_dimensions
    sizes = data[4:start].ljust(4 * num_dimensions, b"\0")
    shape = np.frombuffer(sizes, dtype=">u4").tolist()
    if len(data) != start + math.prod(shape):
        raise EvaluationError(
            f"{path} has {len(data)} bytes, not as many as its head says; get it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); get it again.") from None
