"""The one view of an image that features are taken from: shorter side resized, centre crop.

    resized to floor(crop_px / crop_pct) on the shorter side, bicubic with antialiasing, as uint8
    centre crop of crop_px x crop_px
    normalised by the backbone's mean and standard deviation

`crop_pct` is timm's word: the share of the shorter side that the crop keeps. 1, the default for
every backbone, is how the paper judges on fine-grained data (shorter side resized to 224, centre
crop 224): nothing of an object that fills the image is cut off, and all backbones see the same.
224 / 256 = 0.875 is the practice on ImageNet, and that of the authors' code up to 224 pixels.

Shapes: N images, P pixels a side of the crop.
"""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from evaluation.backbone import FrozenBackbone
from evaluation.errors import EvaluationError


@dataclass(frozen=True)
class CentreCrop:
    """RGB image -> uint8 (3, P, P); `resize_px`: its shorter side before the crop of `crop_px`."""

    crop_px: int
    resize_px: int

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The view of one image. Pillow's resizing is antialiased."""
        resized = resize(image, [self.resize_px], interpolation=InterpolationMode.BICUBIC)
        pixels_3PP: torch.Tensor = pil_to_tensor(center_crop(resized, [self.crop_px, self.crop_px]))
        return pixels_3PP

    def __str__(self) -> str:
        return f"shorter side to {self.resize_px} px (bicubic), centre crop of {self.crop_px} px"


def centre_crop(
    backbone: FrozenBackbone, *, image_px: int | None = None, crop_pct: float | None = 1.0
) -> CentreCrop:
    """The view for a backbone.

    Args:
        image_px: side of the crop; None: the backbone's own.
        crop_pct: above 0, at most 1; None: what timm says of the backbone, else 1.

    Raises:
        EvaluationError: a number is out of range.
    """
    crop_px = backbone.image_px if image_px is None else image_px
    share = own_crop_pct(backbone) if crop_pct is None else crop_pct
    if crop_px < 1:
        raise EvaluationError(f"--image-px={crop_px}: give 1 or more.")
    if not 0 < share <= 1:
        raise EvaluationError(f"--crop-pct={share:g}: give a number above 0 and at most 1.")
    return CentreCrop(crop_px=crop_px, resize_px=math.floor(crop_px / share))


def own_crop_pct(backbone: FrozenBackbone) -> float:
    """What timm's configuration of the weights says; 1 where it says nothing."""
    settings = getattr(backbone.model, "pretrained_cfg", None)
    found = settings.get("crop_pct") if isinstance(settings, dict) else None
    return 1.0 if found is None else float(found)


def normalise(
    images_N3PP: torch.Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """uint8 images -> float32 as a backbone takes them, on the device they are on."""
    mean_3 = torch.tensor(mean, device=images_N3PP.device)
    std_3 = torch.tensor(std, device=images_N3PP.device)
    return (images_N3PP.float() / 255 - mean_3[:, None, None]) / std_3[:, None, None]
