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
    """The tokenizer, the text encoder and its training."""

    vocabulary: int = 2400
    width: int = 192
    layers: int = 3
    heads: int = 4
    positions: int = 56
    batch: int = 64
    steps: int = 3000
    rate: float = 1.5e-3
    save_every: int = 500


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """The denoiser and its training.

    pool: how many latents are held at once; each is used about `uses` times in all.
    pair_share: share of template captions with two things.
    decay_share: over which last share of the steps the learning rate falls to zero.
    sources: whose icons are learned, indices into `sources.SOURCES`.
    time_shift: moves the diffusion times on which training dwells towards more noise, where shapes
    are decided (of a logistic-normal distribution, its location).
    processes: how many train together, each with its share of the batch and of the threads. Two
    on two cores wait for each other once a step; two threads of one, after every operation.
    """

    channels: tuple[int, ...] = (128, 192)
    pool: int = 8192
    uses: float = 8.0
    batch: int = 128
    processes: int = 2
    steps: int = 6000
    rate: float = 2e-3
    decay_share: float = 0.3
    time_shift: float = 0.6
    drop_text: float = 0.1
    pair_share: float = 0.1
    sources: tuple[int, ...] = (0, 1, 2)
    ema: float = 0.998
    save_every: int = 200


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Captions: how many the LLM writes a concept, and their share among the training captions."""

    each: int = 10
    eval_each: int = 8
    batch: int = 64
    max_words: int = 24
    temperature: float = 0.8
    top_p: float = 0.9
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The independent classifier that judges the pictures."""

    folder: str = "recipes/embedded_image_model/judge"
    width: int = 32
    steps: int = 4000
    batch: int = 64
    rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How the shipped model is sampled: what the product's demo and the evaluation use."""

    steps: int = 8
    guidance: float = 3.0
    captions_each: int = 4
    group: int = 4
    steps_tried: tuple[int, ...] = (3, 4, 6, 8, 12, 20)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole recipe. `work`: everything on the way; `out`: the shipped folder; `configs`: where
    the concept bank that goes with it is written; `notes`: a text about these weights for the end
    of the report.
    """

    work: str = "runs/embedded_image_model"
    out: str = "generators/embedded_image_model"
    configs: str = "configs"
    sheet: str = "docs/images/embedded_samples.png"
    sheet_every: int = 6
    report: str = "docs/embedded-model.md"
    notes: str = ""
    seed: int = 7
    threads: int = 1
    icon_px: int = 64
    backgrounds_each: int = 160
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
    config: Config = _fill(Config, yaml.safe_load(path.read_text(encoding="utf-8")) or {}, "")
    processes, batch = config.unet.processes, config.unet.batch
    if processes < 1 or batch % processes or config.unet.pool % processes:
        raise ValueError(
            f"unet.processes={processes} must divide unet.batch={batch} and "
            f"unet.pool={config.unet.pool}"
        )
    return config
