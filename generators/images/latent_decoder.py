"""Decodes a pipeline's latents outside of its call, so that the next batch need not wait for it.

Imported by the engine child only: it needs torch.

N: pictures; C: channels; H, W: sides.
"""

from collections.abc import Callable
from typing import Any

import torch

from generators.images.lanes import Lanes

_AT_ONCE = 16
"""Pictures decoded together: a decoder's widest layers take hundreds of megabytes a picture."""
_LEVELS_ALIKE = 2 / 255


class LatentDecoder:
    """What most pipelines do with their latents: scale, decode, bring to [0, 1].

    Args:
        pipeline: one with a `vae` and an `image_processor`.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __call__(self, latents_NCHW: torch.Tensor) -> torch.Tensor:
        """Pictures in [0, 1], (N, 3, H, W)."""
        vae = self._pipeline.vae
        scaled_NCHW = _scaled(latents_NCHW, vae.config)
        decoded = [vae.decode(part, return_dict=False)[0] for part in scaled_NCHW.split(_AT_ONCE)]
        images_NCHW = torch.cat(decoded)
        processor = self._pipeline.image_processor
        return processor.postprocess(images_NCHW, output_type="pt")


def _scaled(latents_NCHW: torch.Tensor, config: Any) -> torch.Tensor:
    scale = getattr(config, "scaling_factor", None) or 1.0
    shift = getattr(config, "shift_factor", None)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        mean_C11 = latents_NCHW.new_tensor(mean).view(-1, 1, 1)
        std_C11 = latents_NCHW.new_tensor(std).view(-1, 1, 1)
        return latents_NCHW * std_C11 / scale + mean_C11
    scaled = latents_NCHW / scale
    return scaled + shift if shift else scaled


def decoder_of(
    pipeline: Any, render_one: Callable[[str], torch.Tensor], lanes: Lanes
) -> LatentDecoder | None:
    """The pipeline's decoder, if its pictures are the pipeline's own; None: it must decode itself.

    Pipelines scale, unpack and cast in many ways, and some check what they decode. So one picture
    is made both ways.

    Args:
        pipeline: to look at.
        render_one: makes the same picture at each call; takes the pipeline's `output_type`.
        lanes: the decoder will run in their finishing lane.
    """
    if getattr(pipeline, "safety_checker", None) is not None:
        return None
    decoder = LatentDecoder(pipeline)
    try:
        own_NCHW = render_one("pt")
        latents = render_one("latent")
        with lanes.finishing([latents]):
            images_NCHW = decoder(latents)
            alike = own_NCHW.shape == images_NCHW.shape and bool(
                torch.allclose(own_NCHW.float(), images_NCHW.float(), atol=_LEVELS_ALIKE, rtol=0.0)
            )
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        # If the pipeline itself fails, its first batch says so.
        return None
    return decoder if alike else None
