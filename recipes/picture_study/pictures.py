"""Groups of pictures for captions: rendered by a model folder, or real compositions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from generators.images.renderer import Renderer
from online_synclr.config import Config
from online_synclr.stream.group import Group, Recipe
from recipes.embedded_image_model.captions import free_draft
from recipes.embedded_image_model.compose import Composer, Wish
from recipes.embedded_image_model.concepts import NAMES
from recipes.picture_study.captions import INCARNATION, Asked


def recipe_of(asked: Asked, *, seed: int, images: int, maker: str) -> Recipe:
    """The recipe of a caption's group; `maker` says who makes the pictures."""
    return Recipe(
        caption=asked.caption, concept=asked.concept, source="embedded", template=asked.template,
        background=asked.background, relation=asked.relation, run_seed=seed,
        incarnation=INCARNATION, stream=0, counter=asked.counter, num_images=images,
        llm_fingerprint="embedded", image_fingerprint=maker,
    )  # fmt: skip


def rendered(config: Config, asked: list[Asked], *, seed: int, renderer: Renderer) -> list[Group]:
    """Groups by an image model, as a generator renders them."""
    each, at_once = config.images.per_caption, config.images.batch_groups
    groups = []
    for start in range(0, len(asked), at_once):
        recipes = [
            recipe_of(one, seed=seed, images=each, maker=renderer.fingerprint)
            for one in asked[start : start + at_once]
        ]
        groups += [one.group for one in renderer.render(recipes)]
    return groups


def composed(
    config: Config, asked: list[Asked], *, seed: int, composer: Composer, maker: str
) -> list[Group]:
    """Groups of real compositions that fulfil the captions: what a perfect model would draw."""
    each = config.images.per_caption
    groups = []
    for one in asked:
        draft = free_draft(one.concept, one.caption, one.background)
        wish = Wish(concept=NAMES.index(one.concept)) if draft is None else draft.wish
        images = composer.compose([wish] * each).images_B3SS
        pixels = images.mul(255).round().to(torch.uint8).numpy()
        groups.append(Group(recipe_of(one, seed=seed, images=each, maker=maker), pixels))
    return groups


def kept(
    path: Path, make: Callable[[], list[Group]], asked: list[Asked], *, seed: int, maker: str
) -> list[Group]:
    """The groups of `make`, kept in `path`; made again when other captions or makers are asked."""
    captions = [one.caption for one in asked]
    if path.exists():
        with np.load(path) as stored:
            if str(stored["maker"]) == maker and stored["captions"].tolist() == captions:
                return [
                    Group(recipe_of(one, seed=seed, images=len(images), maker=maker), images)
                    for one, images in zip(asked, stored["images"], strict=True)
                ]
    groups = make()
    images = np.stack([group.images_mchw for group in groups])
    fresh = path.with_suffix(".new.npz")
    np.savez(fresh, images=images, captions=np.array(captions), maker=np.array(maker))
    fresh.replace(path)
    return groups
