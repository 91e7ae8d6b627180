"""Renders groups with any diffusers text-to-image pipeline.

Imported by the engine child only: it needs torch and diffusers.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from generators.errors import GeneratorError, SetupError
from generators.fingerprint import fingerprint, model_identity
from generators.images.lanes import HostCopies, lanes_for
from generators.images.latent_decoder import decoder_of
from generators.images.noise import noise_generator
from generators.images.pipeline import load_pipeline, resolve_image_model
from generators.images.pixels import to_uint8
from generators.images.prompt_encoder import install_prompt_encoder
from generators.images.renderer import Rendered
from generators.images.tuning import compile_parts
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

_TRIAL_STEPS = 2
"""Denoising steps of the picture that says whether latents can be decoded apart."""


class DiffusersRenderer:
    """A pipeline on one device.

    Every image has a torch.Generator of its own, seeded from its recipe, that makes its first
    latents and the noise of its steps. The generators live on the CPU, so the noise is the same on
    every device. Pixels of one group rendered alone and among others agree within 2 of 255 levels
    in float32 and within 16 in bfloat16 (the kernels sum in another order; measured with the
    embedded model: 1 and 4); at the same batch shape they are equal. With `images.compile` every
    batch has the same shape: it is filled up with its last recipe.

    On a GPU `submit` returns once the work is queued: decoding, conversion and the copy to the
    host of one batch go on beside the denoising of the next (see `generators.images.lanes`).
    """

    def __init__(self, settings: ImagesConfig, *, device: str) -> None:
        self._settings = settings
        self._device = torch.device(device)
        self._pipeline: Any = load_pipeline(settings, self._device)
        self._lanes = lanes_for(self._device)
        self._arguments = self._supported_arguments()
        install_prompt_encoder(self._pipeline, self._lanes)
        with torch.inference_mode():
            self._decoder = decoder_of(self._pipeline, self._one_picture, self._lanes)
        # After the trial, whose one picture would be compiled for as well.
        compile_parts(self._pipeline, settings)
        self._has_rendered = False
        self.fingerprint = f"diffusers:{self._fingerprint()}"

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        """See `Renderer.render`. All recipes must have the same number of images.

        Raises:
            GeneratorError: the pipeline's pictures are not what was asked for.
        """
        return self.submit(recipes).result()

    def submit(self, recipes: Sequence[Recipe]) -> "Underway":
        """See `Renderer.submit`. All recipes must have the same number of images.

        Raises:
            GeneratorError: the pipeline's pictures are not what was asked for.
        """
        batch = self._filled_up(recipes)
        num_images = len(batch) * batch[0].num_images
        with torch.inference_mode():
            made = self._call_pipeline(batch, "pt" if self._decoder is None else "latent")
            with self._lanes.finishing([made] if isinstance(made, torch.Tensor) else []):
                images = made if self._decoder is None else self._decoder(made)
                images_NCHW = self._checked(images, num_images=num_images)
                # One copy to the host for all of them.
                copies = self._lanes.to_host(to_uint8(images_NCHW, self._settings.send_px))
        return Underway(recipes, copies)

    def close(self) -> None:
        """Let go of the model's memory."""
        self._pipeline = self._decoder = None

    def _filled_up(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        missing = 0
        if self._settings.compile != "none":
            missing = max(0, self._settings.batch_groups - len(recipes))
        return [*recipes, *[recipes[-1]] * missing]

    def _call_pipeline(self, recipes: Sequence[Recipe], output_type: str) -> Any:
        return self._pipeline(
            prompt=[recipe.caption for recipe in recipes],
            num_images_per_prompt=recipes[0].num_images,
            generator=_generators(recipes),
            output_type=output_type,
            **self._arguments_for(len(recipes)),
        ).images

    def _one_picture(self, output_type: str) -> Any:
        arguments = self._arguments_for(1)
        few = {"num_inference_steps": min(_TRIAL_STEPS, self._settings.steps)}
        return self._pipeline(
            prompt=["a picture"],
            generator=[noise_generator(0)],
            output_type=output_type,
            **(arguments | {name: few[name] for name in few if name in arguments}),
        ).images

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
        unknown = sorted(settings.call_args.keys() - known.keys())
        if unknown:
            raise SetupError(
                f"images.call_args: {type(self._pipeline).__name__} takes no {unknown[0]}; leave "
                "it out"
            )
        wanted = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "height": settings.render_px,
            "width": settings.render_px,
        }
        return {
            **{name: value for name, value in wanted.items() if name in known},
            **settings.call_args,
        }

    def _arguments_for(self, num_prompts: int) -> dict[str, Any]:
        negative = self._settings.negative_prompt
        if not negative:
            return self._arguments
        return {**self._arguments, "negative_prompt": [negative] * num_prompts}

    def _fingerprint(self) -> str:
        settings = self._settings
        parts: dict[str, object] = {
            "model": model_identity(resolve_image_model(settings.model), settings.revision),
            "vae": model_identity(settings.vae) if settings.vae else "",
            "lora": model_identity(settings.lora) if settings.lora else "",
            "dtype": str(self._pipeline.dtype),
            "settings": settings.model_dump(mode="json", include=_PIXEL_SETTINGS),
        }
        # Only where they are set: pictures made before these settings were there are the same.
        if settings.compile != "none":
            parts["compile"] = settings.compile
        if settings.call_args:
            parts["call_args"] = settings.call_args
        if settings.lora_file is not None:
            parts["lora_file"] = settings.lora_file
        return fingerprint(parts)


class Underway:
    """A batch whose pictures are on their way to the host."""

    def __init__(self, recipes: Sequence[Recipe], copies: HostCopies) -> None:
        self._recipes = recipes
        self._copies = copies

    def done(self) -> bool:
        """See `Rendering.done`."""
        return self._copies.done()

    def result(self) -> list[Rendered]:
        """See `Rendering.result`."""
        pixels_NCHW, finite_N = self._copies.wait()
        num_images = self._recipes[0].num_images
        pixels = pixels_NCHW.numpy()
        finite = finite_N.view(-1, num_images).all(dim=1).tolist()
        return [
            Rendered(Group(recipe, pixels[i * num_images : (i + 1) * num_images]), finite[i])
            for i, recipe in enumerate(self._recipes)
        ]


def _mend(found: tuple[int, ...] | str, asked: tuple[int, int, int, int]) -> str:
    if len(found) == 4 and found[:2] == asked[:2] and found[2] == found[3]:
        return f"set images.render_px={found[3]}"
    return "name a text-to-image model that makes square RGB pictures"


def _generators(recipes: Sequence[Recipe]) -> list[torch.Generator]:
    seeds = [seed for recipe in recipes for seed in recipe.noise_seeds()]
    return [noise_generator(seed) for seed in seeds]
