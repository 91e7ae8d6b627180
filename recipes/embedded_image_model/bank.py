"""The demo's concept bank: written from what the model draws, so that the two cannot differ."""

from __future__ import annotations

import shutil
from pathlib import Path

from online_synclr.paths import CONFIGS_DIR
from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.concepts import CONCEPTS, OFFERED, plural_of

DOMAIN = "embedded"
BANK = Path("concepts/embedded.yaml")
_HEAD = "# What the embedded image model draws: name, domain, other words that name it.\n"


def write(configs: Path) -> None:
    """Write `concepts/embedded.tsv` and `backgrounds/embedded.txt` under a folder of configs."""
    rows = []
    for concept in (CONCEPTS[index] for index in OFFERED):
        plurals = [plural_of(word) for word in concept.words]
        others = dict.fromkeys(word for word in (*concept.also, *plurals) if word != concept.name)
        rows.append(f"{concept.name}\t{DOMAIN}\t{'|'.join(others)}\n")
    phrases = "".join(f"{background.phrase}\n" for background in BACKGROUNDS)
    for file, text in (
        ("concepts/embedded.tsv", _HEAD + "".join(rows)),
        ("backgrounds/embedded.txt", phrases),
    ):
        (configs / file).parent.mkdir(parents=True, exist_ok=True)
        (configs / file).write_text(text, encoding="utf-8")


def write_apart(configs: Path) -> Path:
    """The whole bank under a folder of its own, prompts included; its YAML file.

    For captions of a model that is not yet shipped: the product's own bank stays as it is.
    """
    write(configs)
    shutil.copy(CONFIGS_DIR / BANK, configs / BANK)
    shutil.copytree(
        CONFIGS_DIR / "prompts/embedded", configs / "prompts/embedded", dirs_exist_ok=True
    )
    return configs / BANK
