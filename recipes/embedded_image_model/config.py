"""Settings of the recipe, read from YAML; unknown keys and wrong types are refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The codec. Steps are optimiser steps; `noise` is added to the latent before decoding."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    pool_images: int = 16384
    crop_steps: int = 3600
    crop_batch: int = 32
    frame_steps: int = 500
    frame_batch: int = 16
    rate: float = 1.5e-3
    kl_weight: float = 3e-4
    noise: float = 0.05
    save_every: int = 300
    decoder_steps: int = 3000
    decoder_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder and its tokenizer."""

    vocabulary: int = 2200
    width: int = 160
    layers: int = 3
    heads: int = 4
    positions: int = 24


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """The denoiser and its training.

    pool: how many latents are held at once; each is used about `uses` times in all.
    class_weight: of the loss that names the concept from the pooled text.
    pair_share: share of template captions with two things.
    sources: whose icons are learned, indices into `sources.SOURCES`.
    joint_steps: steps in which the text encoder learns as well; it is frozen after them.
    """

    channels: tuple[int, ...] = (128, 160)
    pool: int = 12288
    uses: float = 4.0
    batch: int = 64
    steps: int = 8000
    rate: float = 8e-4
    drop_text: float = 0.1
    class_weight: float = 0.1
    pair_share: float = 0.05
    sources: tuple[int, ...] = (0, 2)
    joint_steps: int = 1200
    ema: float = 0.999
    save_every: int = 200


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Captions: how many the LLM writes a concept, and their share among the training captions."""

    each: int = 96
    eval_each: int = 8
    batch: int = 64
    max_words: int = 24
    temperature: float = 0.8
    top_p: float = 0.9
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The independent classifier that judges the pictures."""

    width: int = 32
    steps: int = 2500
    batch: int = 64
    rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How the shipped model is sampled: what the product's demo and the evaluation use."""

    steps: int = 8
    guidance: float = 3.0
    captions_each: int = 4
    group: int = 4


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole recipe. `out` is the shipped folder, `work` everything on the way to it."""

    work: str = "runs/embedded_image_model"
    out: str = "generators/embedded_image_model"
    sheet: str = "docs/images/embedded_samples.png"
    report: str = "docs/embedded-model.md"
    seed: int = 7
    threads: int = 1
    icon_px: int = 64
    backgrounds_each: int = 192
    vae: VaeConfig = field(default_factory=VaeConfig)
    text: TextConfig = field(default_factory=TextConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)


def _fill(kind: type, values: dict[str, Any], where: str) -> Any:
    """Build dataclass `kind` from a mapping, checking every key and type."""
    known = {item.name: item for item in fields(kind)}
    made: dict[str, Any] = {}
    default = kind()
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}{key}: unknown key; known: {', '.join(known)}")
        current = getattr(default, key)
        if is_dataclass(current):
            made[key] = _fill(type(current), value, f"{where}{key}.")
        elif isinstance(current, tuple):
            made[key] = tuple(value)
        elif isinstance(current, float) and isinstance(value, int):
            made[key] = float(value)
        elif type(value) is type(current):
            made[key] = value
        else:
            raise ValueError(f"{where}{key}: {type(current).__name__} expected, got {value!r}")
    return kind(**made)


def load(path: Path) -> Config:
    """Read and check a settings file."""
    return _fill(Config, yaml.safe_load(path.read_text(encoding="utf-8")) or {}, "")
