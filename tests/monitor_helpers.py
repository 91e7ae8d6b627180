"""Groups, roles and settings for the tests of the monitor."""

import numpy as np

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.roles import RunRoles
from online_synclr.stream.group import Group, Recipe

CAPTIONS = ("a red fox asleep in fresh snow", "an espresso cup | on a *zinc* <counter>")


def make_group(index: int, num_images: int = 3, side_px: int = 16) -> Group:
    recipe = Recipe(
        caption=CAPTIONS[index % len(CAPTIONS)],
        concept="red fox" if index % 2 == 0 else "espresso",
        source="imagenet",
        template="t",
        background="",
        relation="",
        run_seed=7,
        incarnation=1,
        stream=2,
        counter=index,
        num_images=num_images,
        llm_fingerprint="llm",
        image_fingerprint="image",
    )
    shape = (num_images, 3, side_px, side_px)
    images = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
    return Group(recipe, images)


def make_roles(synthetic: tuple[str, ...] = ()) -> RunRoles:
    return RunRoles(
        generators=("gen-0", "gen-1"),
        num_trainers=1,
        hosts=("node-a",),
        trainer_devices=("cuda:0",),
        generator_devices=("cuda:1", "cuda:2"),
        synthetic_parts=synthetic,
    )


def make_config(**sections: dict[str, object]) -> Config:
    return Config.model_validate(sections)


def make_scalars() -> dict[str, float]:
    """Every declared metric with a value of its own; families with two members."""
    names: list[str] = []
    for name in metrics.METRICS:
        members = [name.replace("<id>", gen) for gen in ("gen-0", "gen-1")]
        members = [m.replace("<reason>", "repeat").replace("<k>", "1") for m in members]
        names.extend(dict.fromkeys(members))
    return {name: 0.25 + index for index, name in enumerate(names)}
