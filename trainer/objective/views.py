"""Global and local crops of a batch of uint8 images, made on the device the images are on.

Every sample has parameters of its own: crop box, flip, a down-and-up resampling before the crop
(StableRep), colour jitter in a random order, greyscale, blur, solarisation. The operations agree
with torchvision's on float images to 1e-5 (tests/test_views.py); unlike its uint8 path nothing is
rounded between two operations. Each crop draws everything for itself; whether a global crop
belongs to the first or the second half (two sets of blur and solarise probabilities) is a coin
thrown per image, and several global crops of one image alternate.

Shapes: N images, C = 3 channels, H and W height and width, G global and L local crops an image,
g and l their sides.
"""

from dataclasses import dataclass

import torch

from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective.augment_blur import blur_radius, gaussian_blur, scaled_sigmas
from trainer.objective.augment_colour import blend, shift_hue, solarise
from trainer.objective.augment_crop import (
    down_and_up_matrix,
    resample,
    resample_matrices,
    rows_first,
)
from trainer.objective.augment_params import CropParams, CropSettings, draw_crop, params_to

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Views:
    """Normalised crops, crop by crop: sample c * N + i is crop c of image i.

    `globals_` float32 (G * N, 3, g, g); `locals_` float32 (L * N, 3, l, l), empty without locals.
    """

    globals_: torch.Tensor
    locals_: torch.Tensor
    num_images: int


class ViewMaker:
    """Makes the views of a step; keeps nothing between two steps but constants."""

    def __init__(self, crops: CropsConfig, augment: AugmentConfig) -> None:
        self._crops = crops
        self._augment = augment
        self._sigmas = scaled_sigmas(augment.blur_sigma, crops.global_px)
        self._down_and_up: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def __call__(self, images_NCHW: torch.Tensor, generator: torch.Generator) -> Views:
        """Views of uint8 images (N, 3, H, W), on their device.

        Args:
            images_NCHW: uint8.
            generator: a CPU generator; it alone decides every parameter.

        Returns:
            The views, normalised with ImageNet's mean and standard deviation.

        Raises:
            ValueError: the images are not uint8 with three channels.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.dim() != 4 or images_NCHW.shape[1] != 3:
            raise ValueError(
                f"views need uint8 images (N, 3, H, W), not {images_NCHW.dtype} "
                f"{tuple(images_NCHW.shape)}"
            )
        num, _, height, width = images_NCHW.shape
        images_NHCW = rows_first(images_NCHW)
        second_N = torch.rand(num, generator=generator) < 0.5
        crops = self._crops
        globals_ = images_NHCW.new_empty(
            (crops.globals_per_image, num, 3, crops.global_px, crops.global_px)
        )
        locals_ = images_NHCW.new_empty(
            (crops.locals_per_image, num, 3, crops.local_px, crops.local_px)
        )
        for crop, out in enumerate(globals_):
            settings = self._global_settings(second_N if crop % 2 == 0 else ~second_N)
            params = draw_crop(settings, height=height, width=width, generator=generator)
            self.fill(out, images_NHCW, params)
        for out in locals_:
            params = draw_crop(
                self._local_settings(num), height=height, width=width, generator=generator
            )
            self.fill(out, images_NHCW, params)
        return Views(globals_.flatten(0, 1), locals_.flatten(0, 1), num)

    def fill(self, out: torch.Tensor, images_NHCW: torch.Tensor, params: CropParams) -> None:
        """Write one crop of every image into `out` (N, 3, side, side), normalised."""
        params = params_to(params, images_NHCW.device)
        crops_NCHW = self.crop(images_NHCW, params, out.shape[-1])
        crops_NCHW = self.colour(crops_NCHW, params)
        _normalise_into(out, crops_NCHW)

    def crop(self, images_NHCW: torch.Tensor, params: CropParams, side: int) -> torch.Tensor:
        """Down-and-up resampling, crop and flip; float32 (N, 3, side, side) in [0, 1]."""
        _, height, _, width = images_NHCW.shape
        tops_N, lefts_N, heights_N, widths_N = params.boxes_N4.unbind(dim=1)
        rows_NOH = resample_matrices(tops_N, heights_N, side=height, out=side)
        columns_NOW = resample_matrices(
            lefts_N, widths_N, side=width, out=side, flips_N=params.flips_N
        )
        for px, index in params.downsample.items():
            self._through_fewer_pixels(rows_NOH, index, px)
            self._through_fewer_pixels(columns_NOW, index, px)
        return resample(images_NHCW, rows_NOH, columns_NOW)

    def colour(self, crops_NCHW: torch.Tensor, params: CropParams) -> torch.Tensor:
        """Jitter, greyscale, blur and solarisation of float crops in [0, 1]."""
        for step in params.jitter:
            crops_NCHW = blend(crops_NCHW, step.blend)
            if not step.hue.empty:
                chosen = crops_NCHW[step.hue.index_K]
                crops_NCHW[step.hue.index_K] = shift_hue(chosen, step.hue.values_K)
        crops_NCHW = blend(crops_NCHW, params.grey)
        if not params.blur.empty:
            radius = min(blur_radius(self._sigmas[1]), crops_NCHW.shape[-1] - 1)
            chosen = crops_NCHW[params.blur.index_K]
            crops_NCHW[params.blur.index_K] = gaussian_blur(chosen, params.blur.values_K, radius)
        if params.solarise_K.numel():
            crops_NCHW[params.solarise_K] = solarise(crops_NCHW[params.solarise_K])
        return crops_NCHW

    def _global_settings(self, second_N: torch.Tensor) -> CropSettings:
        augment = self._augment
        first_half, second_half = augment.global_blur
        second = second_N.float()
        return CropSettings(
            augment=augment,
            scale=self._crops.global_scale,
            sigmas=self._sigmas,
            blur_N=first_half * (1.0 - second) + second_half * second,
            solarise_N=augment.solarise * second,
        )

    def _local_settings(self, num: int) -> CropSettings:
        return CropSettings(
            augment=self._augment,
            scale=self._crops.local_scale,
            sigmas=self._sigmas,
            blur_N=torch.full((num,), self._augment.local_blur),
            solarise_N=torch.zeros(num),
        )

    def _through_fewer_pixels(
        self, weights_NOS: torch.Tensor, index: torch.Tensor, px: int
    ) -> None:
        side = weights_NOS.shape[2]
        if px >= side or not index.numel():
            return
        key = (side, px, weights_NOS.device)
        if key not in self._down_and_up:
            self._down_and_up[key] = down_and_up_matrix(side, px, weights_NOS.device)
        weights_NOS[index] = weights_NOS[index] @ self._down_and_up[key]


def _normalise_into(out: torch.Tensor, crops_NCHW: torch.Tensor) -> None:
    # Channel by channel with Python floats: a tensor of three values would be a copy each step.
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.mul(crops_NCHW[:, channel], 1.0 / std, out=out[:, channel])
        out[:, channel].sub_(mean / std)
