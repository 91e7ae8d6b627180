"""The work folder belongs to one set of concepts, backgrounds and network shapes.

Everything in it is reused when the command is started again, so a folder of another version would
mix class numbers and weights without a word; it is refused instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import Config
from recipes.embedded_image_model.sources import SOURCES
from recipes.embedded_image_model.vae import LATENT_CHANNELS

FILE = "made_for.json"
_SHAPES = ("vocabulary", "width", "layers", "heads", "positions", "channels")


def claim(config: Config) -> None:
    """Make the work folder, or see that it was made for these settings.

    Raises:
        ValueError: it was made for others; the message names the first thing that differs.
    """
    folder = Path(config.work)
    wanted = _description(config)
    file = folder / FILE
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        differing = [key for key, value in wanted.items() if found.get(key) != value]
        if differing:
            raise ValueError(
                f"{folder} was made for other {differing[0]}: name another folder with --work, or "
                "remove it"
            )
        return
    if folder.exists() and any(folder.glob("*.pt")):
        raise ValueError(f"{folder} holds the work of an older version: name another with --work")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(wanted), encoding="utf-8")


def _description(config: Config) -> dict[str, object]:
    """What every cached file depends on, as JSON gives it back."""
    networks = {name: asdict(getattr(config, name)) for name in ("vae", "text", "unet")}
    description = {
        "concepts": [[c.name, *c.icons] for c in CONCEPTS],
        "backgrounds": [b.phrase for b in BACKGROUNDS],
        "icon packages": [f"{s.package} {s.version}" for s in SOURCES],
        "seed": config.seed,
        "network shapes": [
            LATENT_CHANNELS,
            *([value for key, value in of.items() if key in _SHAPES] for of in networks.values()),
        ],
    }
    described: dict[str, object] = json.loads(json.dumps(description))
    return described
