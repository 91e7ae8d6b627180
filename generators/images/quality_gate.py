"""Refuses groups that hold a blank, censored or broken picture."""

from typing import Literal

from generators.images.renderer import Rendered

GateReason = Literal["non_finite", "low_contrast"]


def gate_reason(rendered: Rendered, *, min_contrast: float) -> GateReason | None:
    """Why the group is refused, or None.

    `min_contrast` is the smallest standard deviation of a picture's pixels, on the 0-255 scale.
    """
    if not rendered.finite:
        return "non_finite"
    images = rendered.group.images_mchw
    if min_contrast > 0 and float(images.std(axis=(1, 2, 3)).min()) < min_contrast:
        return "low_contrast"
    return None
