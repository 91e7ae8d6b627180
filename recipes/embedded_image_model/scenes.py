"""Composers over the cached drawings, and scenes without captions for the codec and the judge."""

from __future__ import annotations

from pathlib import Path

import torch

from recipes.embedded_image_model import atlas, backgrounds
from recipes.embedded_image_model.compose import PLACES, Composer, Wish
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import Config

PAIR_SHARE, SIZE_SHARE = 0.15, 0.1
JUDGE_DRAWINGS, TEST_DRAWINGS = 1000, 2000


def composer(
    work: Path,
    config: Config,
    *,
    seed: int,
    sources: tuple[int, ...] | None = None,
    drawings: int = 0,
) -> Composer:
    """A composer over the cached atlas and background drawings; of all artists unless told.

    drawings: which set of background drawings: 0 is the image model's, the judge and the
    evaluation have their own.
    """
    icons = atlas.build(work, size_px=config.icon_px)
    bank = backgrounds.draw_bank(
        work, each=config.backgrounds_each, size_px=64, seed=config.seed + drawings
    )
    return Composer(icons, bank, seed=seed, sources=sources)


def random_wish(rng: torch.Generator) -> Wish:
    """Any concept at any size on any background, at times beside another."""
    first, second = torch.randint(len(CONCEPTS), (2,), generator=rng).tolist()
    pair, size = torch.rand(2, generator=rng).tolist()
    if pair > PAIR_SHARE:
        asked = "small" if size < SIZE_SHARE else "large" if size > 1 - SIZE_SHARE else None
        return Wish(concept=first, size=asked)
    place = list(PLACES)[int(torch.randint(len(PLACES), (1,), generator=rng))]
    return Wish(concept=first, second=second, place=place, front=size < 0.5)


def scene_pool(
    work: Path, config: Config, *, count: int | None = None, seed: int | None = None
) -> torch.Tensor:
    """`count` scenes (by default `vae.pool_images`), (N, 4, 64, 64) uint8.

    The fourth channel is how far the first object covers each pixel.
    """
    total = config.vae.pool_images if count is None else count
    first = config.seed + 1 if seed is None else seed
    artist = composer(work, config, seed=first)
    rng = torch.Generator().manual_seed(first + 1)
    parts = []
    for start in range(0, total, 256):
        scenes = artist.compose([random_wish(rng) for _ in range(min(256, total - start))])
        both = torch.cat([scenes.images_B3SS, scenes.cover_B1SS], dim=1)
        parts.append(both.mul(255).round().to(torch.uint8))
    return torch.cat(parts)
