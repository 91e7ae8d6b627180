"""Loads a diffusers text-to-image pipeline as the settings say.

Imported by the engine child only: it needs torch and diffusers.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from generators.errors import GeneratorError, SetupError
from generators.images.tuning import tune
from online_synclr.config.schema import EMBEDDED, ImagesConfig
from online_synclr.paths import EMBEDDED_IMAGE_MODEL_DIR
from online_synclr.precision import fast_dtype

_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def resolve_image_model(model: str) -> str:
    """Hub id or folder of a configured model.

    Raises:
        SetupError: the embedded model is not there.
    """
    if model != EMBEDDED:
        return model
    if not (EMBEDDED_IMAGE_MODEL_DIR / "model_index.json").is_file():
        raise SetupError(
            f"images.model=embedded: {EMBEDDED_IMAGE_MODEL_DIR} holds no model; reinstall the "
            "package or set images.model"
        )
    return str(EMBEDDED_IMAGE_MODEL_DIR)


def load_pipeline(settings: ImagesConfig, device: torch.device) -> Any:
    """The pipeline on its device, with scheduler, decoder and LoRA as set.

    Raises:
        GeneratorError: something cannot be loaded; the message names the setting.
    """
    _quieten()
    dtype = choose_dtype(settings.dtype, device)
    pipeline = _load(settings, dtype)
    if not settings.safety_checker:
        drop_safety_checker(pipeline)
    if settings.vae:
        pipeline.vae = _load_vae(settings.vae, dtype)
    if settings.lora:
        _fuse_lora(pipeline, settings.lora, settings.lora_file)
    _set_scheduler(pipeline, settings)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    tune(pipeline, settings, device)
    return pipeline


def drop_safety_checker(pipeline: Any) -> None:
    """Render without the checker that Stable Diffusion 1.x carries, if it is there.

    It runs on the host, image by image, and waits for the device each time: about 27 ms an image.
    """
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.register_modules(safety_checker=None)
        pipeline.register_to_config(requires_safety_checker=False)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of that name; `auto`: what the device is fast at."""
    if name == "auto":
        return fast_dtype(device)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _quieten() -> None:
    # A caption longer than the text encoder reads is warned about each time: an endless run would
    # fill the disk with it.
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def _load(settings: ImagesConfig, dtype: torch.dtype) -> Any:
    model = resolve_image_model(settings.model)
    arguments = {
        "dtype": dtype,
        "revision": settings.revision,
        "variant": settings.variant,
        "local_files_only": Path(model).is_dir(),
    }
    try:
        return _from_pretrained(model, arguments)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GeneratorError(
            f"images.model={settings.model} could not be loaded ({reason}); give a hub id or a "
            "folder of a diffusers text-to-image pipeline"
        ) from error


def _from_pretrained(model: str, arguments: dict[str, Any]) -> Any:
    try:
        return diffusers.AutoPipelineForText2Image.from_pretrained(model, **arguments)
    except ValueError as error:
        if "can't find a pipeline linked" not in str(error):
            raise
        # Newer and custom pipelines are not in the automatic table; their own class is saved.
        return diffusers.DiffusionPipeline.from_pretrained(model, **arguments)


def _load_vae(vae: str, dtype: torch.dtype) -> Any:
    try:
        return diffusers.AutoModel.from_pretrained(vae, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GeneratorError(
            f"images.vae={vae} could not be loaded ({reason}); give a hub id or folder of a "
            "diffusers autoencoder"
        ) from error


def _fuse_lora(pipeline: Any, lora: str, file: str | None) -> None:
    try:
        pipeline.load_lora_weights(lora, **({} if file is None else {"weight_name": file}))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GeneratorError(
            f"images.lora={lora} could not be fused ({reason}); give a LoRA made for images.model, "
            "and install peft"
        ) from error


def _set_scheduler(pipeline: Any, settings: ImagesConfig) -> None:
    kind: Any = type(pipeline.scheduler)
    arguments: dict[str, Any] = {}
    if settings.scheduler != "model":
        name, arguments = _SCHEDULERS[settings.scheduler]
        kind = getattr(diffusers, name)
    elif not settings.scheduler_args:
        return
    try:
        pipeline.scheduler = kind.from_config(
            pipeline.scheduler.config, **arguments, **settings.scheduler_args
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise SetupError(
            f"images.scheduler={settings.scheduler} does not take images.scheduler_args="
            f"{settings.scheduler_args} ({error}); correct them"
        ) from error
