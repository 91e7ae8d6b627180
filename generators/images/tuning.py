"""How a loaded pipeline is made fast without changing what it renders.

Imported by the engine child only: it needs torch and diffusers.
"""

import inspect
from functools import wraps
from typing import Any

import diffusers
import torch

from generators.errors import SetupError
from online_synclr.config.schema import ImagesConfig

_DENOISERS = ("unet", "transformer")


def tune(pipeline: Any, settings: ImagesConfig, device: torch.device) -> None:
    """Memory formats as set, and time steps where nobody waits for them."""
    for name in _channels_last_parts(settings.channels_last, device):
        module = getattr(pipeline, name, None)
        if module is not None:
            module.to(memory_format=torch.channels_last)
    unet = getattr(pipeline, "unet", None)
    # A compiled UNet would take each step's number for a constant, and compile for each.
    if isinstance(unet, diffusers.UNet2DConditionModel) and settings.compile != "full":
        keep_time_steps_on_host(pipeline.scheduler)
        unet.register_forward_pre_hook(time_step_to_device)


def _channels_last_parts(asked: bool | None, device: torch.device) -> tuple[str, ...]:
    if asked is None:
        # On CPUs torch's group norm in that format costs a UNet more than its convolutions win.
        return ("unet", "vae") if device.type == "cuda" else ("vae",)
    return ("unet", "vae") if asked else ()


def keep_time_steps_on_host(scheduler: Any) -> None:
    """Have the scheduler make its time steps on the CPU, whatever device it is asked for.

    Its tables lie there: with steps on a GPU many a scheduler (DDIM among them) waits for the
    device at each step to look them up.
    """
    original = scheduler.set_timesteps
    signature = inspect.signature(original)

    @wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["device"] = "cpu"
        original(*bound.args, **bound.kwargs)

    scheduler.set_timesteps = set_timesteps


def time_step_to_device(module: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a UNet's forward pass: its time step on the device of its latents.

    Filled in there: copied as it is, it would be waited for.
    """
    latents, step, *others = args
    if not isinstance(step, torch.Tensor) or step.ndim or step.device == latents.device:
        return args
    filled = torch.full((), step.item(), dtype=step.dtype, device=latents.device)
    return (latents, filled, *others)


def compile_parts(pipeline: Any, settings: ImagesConfig) -> None:
    """Have denoiser and decoder compiled at their first call, as `images.compile` says.

    Raises:
        SetupError: the pipeline has no denoiser that is known.
    """
    if settings.compile == "none":
        return
    denoiser = next((m for name in _DENOISERS if (m := getattr(pipeline, name, None))), None)
    if denoiser is None:
        raise SetupError(
            f"images.compile={settings.compile}: {type(pipeline).__name__} has neither unet nor "
            "transformer; set it to none"
        )
    # The batch's shape never changes (see DiffusersRenderer), so that nothing compiles twice.
    if settings.compile == "blocks" and getattr(denoiser, "_repeated_blocks", None):
        denoiser.compile_repeated_blocks(dynamic=False)
    else:
        denoiser.compile(dynamic=False)
    decoder = getattr(getattr(pipeline, "vae", None), "decoder", None)
    if decoder is not None:
        decoder.compile(dynamic=False)
