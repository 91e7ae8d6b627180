"""Global and local crops of a batch of uint8 images, made on the device the images are on.

Every sample has parameters of its own: crop box, flip, a down-and-up resampling before the crop
(StableRep), colour jitter in a random order, greyscale, blur, solarisation. The operations agree
with torchvision's on float images to 1e-5 (tests/test_views.py); unlike its uint8 path nothing is
rounded between two operations. Each crop draws everything for itself; whether a global crop
belongs to the first or the second half (two sets of blur and solarise probabilities) is a coin
thrown per image, and several global crops of one image alternate.

The device decides how many samples are worked on at a time and whether the pixels outside of a
box are multiplied by their zero weights (view_slices.py, augment_resample.py); the rest is the same
code everywhere.

Shapes: N images, C = 3 channels, H and W height and width, G global and L local crops an image,
g and l their sides.
"""

from dataclasses import dataclass

import torch

from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective.augment_apply import normalise_into, recolour
from trainer.objective.augment_blur import blur_radius, scaled_sigmas
from trainer.objective.augment_params import (
    CropParams,
    CropSettings,
    draw_crop,
    params_to,
    seen_boxes,
)
from trainer.objective.augment_resample import (
    Taps,
    down_and_up_matrix,
    resample,
    resample_taps,
    rows_first,
)
from trainer.objective.view_params import ViewParams, params_of
from trainer.objective.view_slices import slices


@dataclass(frozen=True, slots=True)
class Views:
    """Normalised crops, crop by crop: sample c * N + i is crop c of image i.

    `globals_` (G * N, 3, g, g) and `locals_` (L * N, 3, l, l), empty without locals; float32, or
    bfloat16 where the networks compute in it.
    """

    globals_: torch.Tensor
    locals_: torch.Tensor
    num_images: int


class ViewMaker:
    """Makes the views of a step; keeps nothing between two steps but constants.

    `dtype`: of the views. Whatever it is, it is computed in float32 and rounded once at the end.
    """

    def __init__(
        self,
        crops: CropsConfig,
        augment: AugmentConfig,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        self._crops = crops
        self._augment = augment
        self._sigmas = scaled_sigmas(augment.blur_sigma, crops.global_px)
        # Down-and-up matrices by input side, middle side and device.
        self._kept: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def __call__(self, images_NCHW: torch.Tensor, generator: torch.Generator) -> Views:
        """Views of uint8 images (N, 3, H, W): `make` with parameters from `draw`.

        Args:
            images_NCHW: uint8.
            generator: a CPU generator; it alone decides every parameter.

        Returns:
            The views, normalised with ImageNet's mean and standard deviation.

        Raises:
            ValueError: the images are not uint8 with three channels.
        """
        num, _, height, width = _checked(images_NCHW).shape
        params = self.draw(num, height=height, width=width, generator=generator)
        return self.make(images_NCHW, params)

    def draw(self, num: int, *, height: int, width: int, generator: torch.Generator) -> ViewParams:
        """Draw the parameters of all crops of `num` images, on the CPU."""
        second_N = torch.rand(num, generator=generator) < 0.5
        halves = (self._global_settings(second_N), self._global_settings(~second_N))
        settings = [halves[crop % 2] for crop in range(self._crops.globals_per_image)]
        settings += [self._local_settings(num)] * self._crops.locals_per_image
        params = tuple(
            draw_crop(of_crop, height=height, width=width, generator=generator)
            for of_crop in settings
        )
        num_globals = self._crops.globals_per_image
        return ViewParams(params[:num_globals], params[num_globals:])

    def make(self, images_NCHW: torch.Tensor, params: ViewParams) -> Views:
        """Views of uint8 images (N, 3, H, W), on their device, with the parameters of those images.

        Raises:
            ValueError: the images are not uint8 with three channels.
        """
        images_NHCW = rows_first(_checked(images_NCHW))
        globals_ = self._crops_of(images_NHCW, params.globals_, self._crops.global_px)
        locals_ = self._crops_of(images_NHCW, params.locals_, self._crops.local_px)
        return Views(globals_, locals_, images_NHCW.shape[0])

    def _crops_of(
        self, images_NHCW: torch.Tensor, crops: tuple[CropParams, ...], side: int
    ) -> torch.Tensor:
        shape = (len(crops), images_NHCW.shape[0], 3, side, side)
        out = images_NHCW.new_empty(shape, dtype=self._dtype)
        for params, of_crop in zip(crops, out, strict=True):
            self._fill(of_crop, images_NHCW, params)
        return out.flatten(0, 1)

    def _fill(self, out: torch.Tensor, images_NHCW: torch.Tensor, params: CropParams) -> None:
        """Write one crop of every image into `out` (N, 3, side, side), normalised."""
        num, height, _, width = images_NHCW.shape
        side = out.shape[-1]
        radius = min(blur_radius(self._sigmas[1]), side - 1)
        boxes = seen_boxes(params, height, width) if images_NHCW.is_cpu else None
        params = params_to(params, images_NHCW.device)
        rows, columns = _taps(params, height, width, side)
        for part in slices(num, sample_bytes=12 * side * side, device=out.device):
            of_part = params_of(params, part, num=num)
            rows_NOH = self._through_fewer_pixels(rows.matrices(part), of_part)
            columns_NOW = self._through_fewer_pixels(columns.matrices(part), of_part)
            crops_NCHW = resample(images_NHCW[part], rows_NOH, columns_NOW, boxes and boxes[part])
            normalise_into(out[part], recolour(crops_NCHW, of_part, radius))

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

    def _through_fewer_pixels(self, weights_NOS: torch.Tensor, params: CropParams) -> torch.Tensor:
        """The down-and-up resampling before the crop, in place."""
        side = weights_NOS.shape[2]
        for px, index in params.downsample.items():
            if px < side and index.numel():
                weights_NOS[index] = weights_NOS[index] @ self._down_and_up(side, px, index.device)
        return weights_NOS

    def _down_and_up(self, side: int, px: int, device: torch.device) -> torch.Tensor:
        key = (side, px, device)
        if key not in self._kept:
            self._kept[key] = down_and_up_matrix(side, px, device)
        return self._kept[key]


def _taps(params: CropParams, height: int, width: int, side: int) -> tuple[Taps, Taps]:
    """Weights of crop and flip along rows and columns."""
    tops_N, lefts_N, heights_N, widths_N = params.boxes_N4.unbind(dim=1)
    return (
        resample_taps(tops_N, heights_N, side=height, out=side),
        resample_taps(lefts_N, widths_N, side=width, out=side, flips_N=params.flips_N),
    )


def _checked(images_NCHW: torch.Tensor) -> torch.Tensor:
    if images_NCHW.dtype != torch.uint8 or images_NCHW.dim() != 4 or images_NCHW.shape[1] != 3:
        raise ValueError(
            f"views need uint8 images (N, 3, H, W), not {images_NCHW.dtype} "
            f"{tuple(images_NCHW.shape)}"
        )
    return images_NCHW
