"""What happens to each sample of one crop: drawn on the CPU, then copied to the device.

Shapes: N samples; index tensors name the samples of a subset, whose size the host knows.
"""

from dataclasses import dataclass
from functools import partial

import torch

from online_synclr.config.schema import AugmentConfig
from trainer.objective.augment_colour import Blend
from trainer.objective.augment_crop import draw_boxes
from trainer.objective.augment_resample import Box
from trainer.objective.rng import to_device

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True, slots=True)
class Subset:
    """Some samples and one value for each; `index_K` int64, `values_K` float32."""

    index_K: torch.Tensor
    values_K: torch.Tensor

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do; known without asking the device."""
        return self.index_K.numel() == 0


@dataclass(frozen=True, slots=True)
class JitterStep:
    """One of the four operations of the jitter, in each sample's own random order."""

    blend: Blend | None
    hue: Subset


@dataclass(frozen=True, slots=True)
class CropParams:
    """All parameters of one crop of N images.

    `boxes_N4` int64 (top, left, height, width); `flips_N` bool; `downsample` maps a side in pixels
    to int64 indices; `jitter` has four steps; `blur` has the widths as values; `grey_K` and
    `solarise_K` are int64 indices.
    """

    boxes_N4: torch.Tensor
    flips_N: torch.Tensor
    downsample: dict[int, torch.Tensor]
    jitter: tuple[JitterStep, ...]
    grey_K: torch.Tensor
    blur: Subset
    solarise_K: torch.Tensor


@dataclass(frozen=True, slots=True)
class CropSettings:
    """What the parameters of one kind of crop are drawn from.

    `blur_N` and `solarise_N` are probabilities, float32 (N,): they differ between the two halves
    of the global crops. `sigmas` is the range of the blur's width in pixels of the crop.
    """

    augment: AugmentConfig
    scale: tuple[float, float]
    sigmas: tuple[float, float]
    blur_N: torch.Tensor
    solarise_N: torch.Tensor


def draw_crop(
    settings: CropSettings, *, height: int, width: int, generator: torch.Generator
) -> CropParams:
    """Draw the parameters of one crop of N images of `height` x `width` pixels, on the CPU."""
    num = settings.blur_N.numel()
    augment = settings.augment

    def happens(probability: float | torch.Tensor) -> torch.Tensor:
        return torch.rand(num, generator=generator) < probability

    return CropParams(
        boxes_N4=draw_boxes(num, height, width, settings.scale, generator),
        flips_N=happens(augment.flip),
        downsample=_draw_downsample(happens(augment.downsample), augment, generator),
        jitter=_draw_jitter(happens(augment.jitter), augment.jitter_strength, generator),
        grey_K=_indices(happens(augment.grey)),
        blur=_draw_blur(happens(settings.blur_N), settings.sigmas, generator),
        solarise_K=_indices(happens(settings.solarise_N)),
    )


def params_to(params: CropParams, device: torch.device) -> CropParams:
    """The same parameters on `device`, copied without making the host wait."""
    if device.type == "cpu":
        return params
    return CropParams(
        boxes_N4=to_device(params.boxes_N4, device),
        flips_N=to_device(params.flips_N, device),
        downsample={px: to_device(index, device) for px, index in params.downsample.items()},
        jitter=tuple(
            JitterStep(_blend_to(step.blend, device), _subset_to(step.hue, device))
            for step in params.jitter
        ),
        grey_K=to_device(params.grey_K, device),
        blur=_subset_to(params.blur, device),
        solarise_K=to_device(params.solarise_K, device),
    )


def seen_boxes(params: CropParams, height: int, width: int) -> list[Box]:
    """The pixels that each crop reads of its image; of all, where it goes through fewer pixels.

    Args:
        params: on the CPU.
        height: of the images.
        width: of the images.
    """
    boxes: list[Box] = [(box[0], box[1], box[2], box[3]) for box in params.boxes_N4.tolist()]
    for px, index in params.downsample.items():
        if px < max(height, width):
            for sample in index.tolist():
                boxes[sample] = (0, 0, height, width)
    return boxes


def _draw_downsample(
    chosen_N: torch.Tensor, augment: AugmentConfig, generator: torch.Generator
) -> dict[int, torch.Tensor]:
    sides = augment.downsample_px
    if not sides:
        return {}
    which_N = torch.randint(len(sides), chosen_N.shape, generator=generator)
    return {px: _indices(chosen_N & (which_N == i)) for i, px in enumerate(sides)}


def _draw_jitter(
    chosen_N: torch.Tensor,
    strength: tuple[float, float, float, float],
    generator: torch.Generator,
) -> tuple[JitterStep, ...]:
    num = chosen_N.numel()
    order_N4 = torch.rand((num, 4), generator=generator).argsort(dim=1)
    unit_N4 = 2.0 * torch.rand((num, 4), generator=generator) - 1.0
    low = torch.tensor([max(0.0, 1.0 - s) for s in strength[:HUE]])
    high = torch.tensor([1.0 + s for s in strength[:HUE]])
    factors_N3 = low + (high - low) * (unit_N4[:, :HUE] + 1.0) / 2.0
    turns_N = unit_N4[:, HUE] * strength[HUE]
    return tuple(
        _jitter_step(order_N4[:, slot], chosen_N, factors_N3, turns_N) for slot in range(4)
    )


def _jitter_step(
    operation_N: torch.Tensor,
    chosen_N: torch.Tensor,
    factors_N3: torch.Tensor,
    turns_N: torch.Tensor,
) -> JitterStep:
    blends_N = chosen_N & (operation_N != HUE)
    picked_N = factors_N3.gather(1, operation_N.clamp(max=SATURATION)[:, None])[:, 0]
    gain_N = torch.where(blends_N, picked_N, torch.ones_like(picked_N))
    rest_N = 1.0 - gain_N
    weights = Blend(
        gain_N=gain_N,
        grey_weight_N=rest_N * (operation_N == SATURATION),
        mean_weight_N=rest_N * (operation_N == CONTRAST),
    )
    hue_K = _indices(chosen_N & (operation_N == HUE))
    return JitterStep(weights.without_idle(), Subset(hue_K, turns_N[hue_K]))


def _draw_blur(
    chosen_N: torch.Tensor, sigmas: tuple[float, float], generator: torch.Generator
) -> Subset:
    index_K = _indices(chosen_N)
    widths_N = torch.rand(chosen_N.numel(), generator=generator)
    return Subset(index_K, sigmas[0] + (sigmas[1] - sigmas[0]) * widths_N[index_K])


def _indices(chosen_N: torch.Tensor) -> torch.Tensor:
    return chosen_N.nonzero()[:, 0]


def _blend_to(weights: Blend | None, device: torch.device) -> Blend | None:
    return weights and weights.map(partial(to_device, device=device))


def _subset_to(subset: Subset, device: torch.device) -> Subset:
    return Subset(to_device(subset.index_K, device), to_device(subset.values_K, device))
