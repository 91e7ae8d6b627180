"""What happens to the pixels of a batch of crops, after they were cut out.

Shapes: N samples, C = 3 channels, H and W height and width, K samples of a subset.
"""

from collections.abc import Callable

import torch

from trainer.objective.augment_blur import gaussian_blur
from trainer.objective.augment_colour import blend_, grey_, shift_hue_, solarise
from trainer.objective.augment_params import CropParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def recolour(crops_NCHW: torch.Tensor, params: CropParams, blur_radius: int) -> torch.Tensor:
    """Jitter, greyscale, blur and solarisation.

    Args:
        crops_NCHW: float32 in [0, 1]; overwritten.
        params: of those samples, on their device.
        blur_radius: taps on each side of the centre, below H and W.

    Returns:
        The changed crops, in the same memory or in new memory.
    """
    for step in params.jitter:
        if step.blend is not None:
            blend_(crops_NCHW, step.blend)
        crops_NCHW = _changed(crops_NCHW, step.hue.index_K, shift_hue_, step.hue.values_K)
    crops_NCHW = _changed(crops_NCHW, params.grey_K, grey_)
    blur = params.blur
    crops_NCHW = _changed(crops_NCHW, blur.index_K, gaussian_blur, blur.values_K, blur_radius)
    return _changed(crops_NCHW, params.solarise_K, solarise)


def normalise_into(out_NCHW: torch.Tensor, crops_NCHW: torch.Tensor) -> None:
    """Write (x - mean) / std of every channel into `out_NCHW`, float32 or bfloat16."""
    # Channel by channel with Python floats: a tensor of three values would be a copy each step.
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        values = crops_NCHW[:, channel]
        shift = values.new_full((), -mean / std)
        torch.add(shift, values, alpha=1.0 / std, out=out_NCHW[:, channel])


def _changed(
    crops_NCHW: torch.Tensor,
    index_K: torch.Tensor,
    change: Callable[..., torch.Tensor],
    *values: torch.Tensor | int,
) -> torch.Tensor:
    """With some samples changed, named in rising order; `change` may work in place."""
    num_chosen = index_K.numel()
    if num_chosen == 0:
        return crops_NCHW
    if num_chosen == crops_NCHW.shape[0]:
        return change(crops_NCHW, *values)
    chosen_KCHW = change(crops_NCHW.index_select(0, index_K), *values)
    return crops_NCHW.index_copy_(0, index_K, chosen_KCHW)
