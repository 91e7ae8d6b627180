"""The sample sheet: groups of images with their captions under them, good or bad as they come."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from recipes.embedded_image_model.config import DemoConfig
from recipes.embedded_image_model.evaluate import groups

COLUMNS, MARGIN_PX, TEXT_PX, SIDE_PX = 5, 8, 26, 64


def draw(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    demo: DemoConfig,
    path: Path,
    *,
    seed: int,
) -> None:
    """Render every caption's group and write them as one PNG; no picture is picked or left out."""
    wide, tall = demo.group * SIDE_PX + MARGIN_PX, SIDE_PX + TEXT_PX
    rows = (len(captions) + COLUMNS - 1) // COLUMNS
    page = Image.new("RGB", (COLUMNS * wide, rows * tall), "white")
    pen = ImageDraw.Draw(page)
    for index, images in enumerate(groups(pipeline, captions, demo, seed=seed)):
        left, top = index % COLUMNS * wide, index // COLUMNS * tall
        strip = torch.cat(list(images), dim=-1).mul(255).round().to(torch.uint8)
        page.paste(Image.fromarray(strip.permute(1, 2, 0).numpy()), (left, top))
        words = "\n".join(textwrap.wrap(captions[index], 46)[:2])
        pen.multiline_text((left, top + SIDE_PX), words, fill="black", spacing=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(192).save(path, optimize=True)
