"""What is learnt from three kinds of pictures, at equal numbers of images, reuse and steps.

    git worktree add runs/first_version df6cb71
    python -m recipes.picture_study --first runs/first_version

The arms: `first`, the pictures of the first version of the embedded image model for captions of its
concept bank; `this`, those of today's; `real`, the recipe's real compositions streamed for the same
captions as `this`, the ceiling. Three seeds each; random weights are the floor. Everything made is
kept in the run folder and not made again. Writes docs/picture-study.{md,json}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from generators.images.factory import create_renderer
from online_synclr.config import Config, load_config
from online_synclr.paths import CONFIGS_DIR
from online_synclr.stream.group import Group
from recipes.embedded_image_model import config as image_settings
from recipes.embedded_image_model import scenes, work_folder
from recipes.embedded_image_model.concepts import NAMES
from recipes.picture_study import captions, learn, pictures, report, things

CONFIG = Path(__file__).with_name("study.yaml")
RECIPE = Path("recipes/embedded_image_model/config.yaml")
ARMS = ("first", "this", "real")
STAGES = ("captions", "pictures", "training", "report")
BANK = Path("concepts/embedded.yaml")
MODEL = Path("generators/embedded_image_model")


def main() -> None:
    """Make the pictures that are missing, train on them, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=Path, help="a checkout of the first version (arm first)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="the image recipe's settings")
    parser.add_argument("--work", help="its work folder (default: the settings')")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--groups", type=int, default=2490)
    parser.add_argument("--until", choices=STAGES, default="report", help="stop after this stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if "first" in args.arms and args.first is None:
        parser.error("the arm first needs --first, a checkout of the first version")
    recipe = image_settings.load(args.recipe)
    args.recipe = replace(recipe, work=args.work or recipe.work)
    try:
        work_folder.claim(args.recipe)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for arm in args.arms:
            one(args, arm, seed)
    if args.until == "report":
        folder = _measure_things(args)
        report.write(folder, args.seeds, args.arms, Path("docs"))


def one(args: argparse.Namespace, arm: str, seed: int) -> None:
    """Captions, pictures and training of one arm and seed."""
    checkout = args.first if arm == "first" else CONFIGS_DIR.parent
    overrides = [f"run.seed={seed}", f"images.model={checkout / MODEL}", *args.overrides]
    config = load_config(CONFIG, overrides)
    folder = Path(config.run.dir)
    bank = checkout / "configs" / BANK
    texts = folder / f"captions-{'first' if arm == 'first' else 'this'}-{seed}.jsonl"
    asked = captions.write(config, bank, texts, count=args.groups, seed=seed)
    if args.until == "captions":
        return
    make, maker = _maker(args, arm, config, asked, seed)
    path = folder / f"groups-{arm}-{seed}.npz"
    groups = pictures.kept(path, make, asked, seed=seed, maker=maker)
    if args.until != "pictures":
        learn.run(config, groups, folder / f"{arm}-{seed}.json", f"{arm}, seed {seed}")


def _measure_things(args: argparse.Namespace) -> Path:
    """The second measure of every run; returns the run folder."""
    composer = scenes.composer(Path(args.recipe.work), args.recipe, seed=things.SEED)
    images = things.compositions(composer)
    for seed in args.seeds:
        config = load_config(CONFIG, [f"run.seed={seed}", *args.overrides])
        for arm in args.arms:
            things.add(config, Path(config.run.dir) / f"{arm}-{seed}.json", images)
    return Path(config.run.dir)


def _maker(
    args: argparse.Namespace, arm: str, config: Config, asked: list[captions.Asked], seed: int
) -> tuple[Callable[[], list[Group]], str]:
    """How an arm's pictures are made, and a name that changes with what makes them."""
    if arm != "real":
        renderer = create_renderer(config.images, device="cpu", say=print)
        make = partial(pictures.rendered, config, asked, seed=seed, renderer=renderer)
        return make, renderer.fingerprint
    composer = scenes.composer(Path(args.recipe.work), args.recipe, seed=seed)
    maker = f"real compositions, {len(NAMES)} concepts, recipe seed {args.recipe.seed}"
    return partial(
        pictures.composed, config, asked, seed=seed, composer=composer, maker=maker
    ), maker


if __name__ == "__main__":
    main()
