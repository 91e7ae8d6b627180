"""Renders groups with any diffusers text-to-image pipeline.

Imported by the engine child only: it needs torch and diffusers.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from generators.errors import GeneratorError, SetupError
from generators.fingerprint import fingerprint, model_identity
from generators.images.noise import noise_generator
from generators.images.pipeline import load_pipeline, resolve_image_model
from generators.images.pixels import to_uint8
from generators.images.renderer import Rendered
from online_synclr.config.schema import ImagesConfig
from online_synclr.stream.group import Group, Recipe

_PIXEL_SETTINGS = {
    "steps",
    "guidance",
    "scheduler",
    "safety_checker",
    "scheduler_args",
    "negative_prompt",
    "render_px",
    "send_px",
}


class DiffusersRenderer:
    """A pipeline on one device.

    Every image has a torch.Generator of its own, seeded from its recipe, that makes its first
    latents and the noise of its steps. The generators live on the CPU, so the noise is the same on
    every device. Pixels of one group rendered alone and among others agree within 2 of 255 levels
    in float32 and within 16 in bfloat16 (the kernels sum in another order; measured with the
    embedded model: 1 and 4); at the same batch shape they are equal.
    """

    def __init__(self, settings: ImagesConfig, *, device: str) -> None:
        self._settings = settings
        self._device = torch.device(device)
        self._pipeline: Any = load_pipeline(settings, self._device)
        self._arguments = self._supported_arguments()
        self._has_rendered = False
        self.fingerprint = f"diffusers:{self._fingerprint()}"

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        """See `Renderer.render`. All recipes must have the same number of images.

        Raises:
            GeneratorError: the pipeline's pictures are not what was asked for.
        """
        num_images = recipes[0].num_images
        with torch.inference_mode():
            made = self._pipeline(
                prompt=[recipe.caption for recipe in recipes],
                num_images_per_prompt=num_images,
                generator=_generators(recipes),
                output_type="pt",
                **self._arguments_for(len(recipes)),
            ).images
            images_NCHW = self._checked(made, num_images=len(recipes) * num_images)
            pixels_NCHW, finite_N = to_uint8(images_NCHW, self._settings.send_px)
        # One copy to the host for all of them.
        pixels = pixels_NCHW.cpu().contiguous().numpy()
        finite = finite_N.cpu().view(len(recipes), num_images).all(dim=1).tolist()
        return [
            Rendered(Group(recipe, pixels[i * num_images : (i + 1) * num_images]), finite[i])
            for i, recipe in enumerate(recipes)
        ]

    def close(self) -> None:
        """Let go of the model's memory."""
        self._pipeline = None

    def _checked(self, made: Any, *, num_images: int) -> torch.Tensor:
        """The pipeline's pictures, in [0, 1]; shapes are known without waiting for the device."""
        asked = (num_images, 3, self._settings.render_px, self._settings.render_px)
        found = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        if found == asked:
            self._has_rendered = True
            return made
        # From the first call on it is the model's way, and no restart will change it.
        kind = GeneratorError if self._has_rendered else SetupError
        raise kind(
            f"images.model={self._settings.model} gave pictures of shape {found}, not {asked} "
            f"(count, channels, height, width); {_mend(found, asked)}"
        )

    def _supported_arguments(self) -> dict[str, Any]:
        known = inspect.signature(type(self._pipeline).__call__).parameters
        settings = self._settings
        if settings.negative_prompt and "negative_prompt" not in known:
            raise SetupError(
                f"images.negative_prompt: {type(self._pipeline).__name__} takes none; leave it out"
            )
        wanted = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "height": settings.render_px,
            "width": settings.render_px,
        }
        return {name: value for name, value in wanted.items() if name in known}

    def _arguments_for(self, num_prompts: int) -> dict[str, Any]:
        negative = self._settings.negative_prompt
        if not negative:
            return self._arguments
        return {**self._arguments, "negative_prompt": [negative] * num_prompts}

    def _fingerprint(self) -> str:
        settings = self._settings
        parts = {
            "model": model_identity(resolve_image_model(settings.model), settings.revision),
            "vae": model_identity(settings.vae) if settings.vae else "",
            "lora": model_identity(settings.lora) if settings.lora else "",
            "dtype": str(self._pipeline.dtype),
            "settings": settings.model_dump(mode="json", include=_PIXEL_SETTINGS),
        }
        return fingerprint(parts)


def _mend(found: tuple[int, ...] | str, asked: tuple[int, int, int, int]) -> str:
    if len(found) == 4 and found[:2] == asked[:2] and found[2] == found[3]:
        return f"set images.render_px={found[3]}"
    return "name a text-to-image model that makes square RGB pictures"


def _generators(recipes: Sequence[Recipe]) -> list[torch.Generator]:
    seeds = [seed for recipe in recipes for seed in recipe.noise_seeds()]
    return [noise_generator(seed) for seed in seeds]
