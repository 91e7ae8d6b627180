"""The shipped folder: a plain diffusers `StableDiffusionPipeline` in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.embedded_image_model import diffusion

MAX_BYTES = 25_000_000
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip


def folder_bytes(folder: Path) -> int:
    """Size of everything in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write(
    out: Path,
    *,
    codec: AutoencoderKL,
    text: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer_folder: Path,
) -> None:
    """Write the pipeline to `out` in fp16; the modules themselves keep their precision.

    Raises:
        ValueError: the folder is larger than `MAX_BYTES`.
    """
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    parts = {}
    for name, module in (("vae", codec), ("text_encoder", text), ("unet", unet)):
        module.save_pretrained(fresh / name)
        parts[name] = type(module).from_pretrained(fresh / name).half()
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=diffusion.sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh)
    load_text_in_fp32(fresh / "text_encoder" / "config.json")
    for name in TOKENIZER_FILES:  # transformers may write tokenizer.json alone
        shutil.copy(tokenizer_folder / name, fresh / "tokenizer" / name)
    (fresh / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    size = folder_bytes(fresh)
    if size > MAX_BYTES:
        raise ValueError(f"{out}: {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB may ship")
    out.mkdir(parents=True, exist_ok=True)
    for item in sorted(fresh.iterdir()):
        target = out / item.name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.move(item, target)
    fresh.rmdir()
    print(f"export: {out}, {folder_bytes(out) / 1e6:.1f} MB", flush=True)


def load_text_in_fp32(config_json: Path) -> None:
    """Let the text encoder load in fp32 unless told otherwise, as diffusers loads its own parts.

    transformers 5 takes the precision from this file; fp16 beside an fp32 denoiser would fail.
    """
    settings = json.loads(config_json.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config_json.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, *, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The shipped pipeline, as anyone loads it."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
