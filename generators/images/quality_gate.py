"""Refuses groups that would teach nothing, or something wrong. Pure: no model, no clock.

A group is refused for the first reason that holds:

    wrong_shape   it is not uint8 of the shape that was announced to the trainers
    non_finite    a pixel was no finite number before it became uint8 (overflow, broken weights)
    low_contrast  a picture is flat: blank, or blanked by a safety checker
    identical     two of its pictures are equal to the last bit: the pipeline ignored their seeds

Any two, not only all: two equal pictures are a positive pair that no view of the world explains,
and pictures with noise of their own are never equal by chance. Pictures that are merely alike are
what a caption is for. At four pictures of 256 px the gate costs 2 ms a group (a CPU core, numpy).
"""

from typing import Literal

import numpy as np
import xxhash

from generators.images.renderer import Rendered

GateReason = Literal["wrong_shape", "non_finite", "low_contrast", "identical"]


class QualityGate:
    """Judges rendered groups.

    Args:
        image_shape: (images, channels, height, width) of every group, as HELLO announces it.
        min_contrast: Smallest standard deviation, on the 0-255 scale, of the channel of a picture
            that varies most; 0: flat pictures pass.
    """

    def __init__(self, image_shape: tuple[int, int, int, int], min_contrast: float) -> None:
        self._shape = image_shape
        self._min_contrast = min_contrast

    def reason(self, rendered: Rendered) -> GateReason | None:
        """Why the group is refused, or None."""
        images_mchw = rendered.group.images_mchw
        if images_mchw.shape != self._shape or images_mchw.dtype != np.uint8:
            return "wrong_shape"
        if not rendered.finite:
            return "non_finite"
        if self._min_contrast > 0 and _lowest_contrast(images_mchw) < self._min_contrast:
            return "low_contrast"
        if _any_equal(images_mchw):
            return "identical"
        return None


def _lowest_contrast(images_mchw: np.ndarray) -> float:
    """Of the flattest picture. Channel by channel: a picture that is red all over is flat."""
    return float(images_mchw.std(axis=(2, 3)).max(axis=1).min())


def _any_equal(images_mchw: np.ndarray) -> bool:
    digests = {xxhash.xxh3_128_digest(np.ascontiguousarray(image).data) for image in images_mchw}
    return len(digests) < len(images_mchw)
