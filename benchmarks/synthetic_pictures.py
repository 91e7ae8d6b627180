"""Pictures for benchmarks of the stream: made up and smooth, a tenth of their bytes as JPEG q95."""

import numpy as np
from PIL import Image


def make_images(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Smooth pictures of noise, uint8: JPEG of pixel noise would be larger than its pixels."""
    images, channels, height, width = shape
    small = np.random.default_rng(seed).integers(0, 256, (images, 8, 8, channels), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((width, height))) for one in small]
    return np.ascontiguousarray(np.stack(large).transpose(0, 3, 1, 2))
