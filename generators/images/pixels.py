"""From a pipeline's floating-point pictures to uint8 at the size that is sent.

Imported by the engine child only: it needs torch.

Diffusers clamps what its decoder gives to [0, 1] first, which keeps a NaN and turns an infinity
into black or white; a picture of those alone is flat.

N: pictures; C: channels; H, W: sides.
"""

import torch
from torch.nn.functional import interpolate


def to_uint8(images_NCHW: torch.Tensor, send_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures in [0, 1] -> (uint8 pictures of side `send_px`, whether each was finite).

    Works on the pictures' device; nothing is copied to the host. Whole ratios are averaged by
    area, others resized with antialiasing.
    """
    images_NCHW = images_NCHW.float()
    finite_N = torch.isfinite(images_NCHW).flatten(1).all(dim=1)
    images_NCHW = images_NCHW.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0)
    if images_NCHW.shape[-1] != send_px or images_NCHW.shape[-2] != send_px:
        images_NCHW = _resize(images_NCHW, send_px)
    return (images_NCHW * 255.0).round().clamp(0.0, 255.0).to(torch.uint8), finite_N


def _resize(images_NCHW: torch.Tensor, send_px: int) -> torch.Tensor:
    if all(side % send_px == 0 for side in images_NCHW.shape[-2:]):
        return interpolate(images_NCHW, size=(send_px, send_px), mode="area")
    return interpolate(
        images_NCHW, size=(send_px, send_px), mode="bilinear", antialias=True, align_corners=False
    )
