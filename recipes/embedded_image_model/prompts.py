"""Prompts for the caption LLM, and the trimming of what it answers.

The layout is the paper's: an instruction line, three in-context examples drawn at random, then the
query. The files are the product's (`configs/prompts/embedded`), so that training captions and the
captions of a run come from one distribution.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.concepts import CONCEPTS

PROMPTS = Path("configs/prompts/embedded")
RELATIONS = (
    "in", "on", "next to", "behind", "in front of", "over", "under", "above", "below", "besides",
)  # fmt: skip
TEMPLATE_SHARES = {"concept": 0.44, "concept_background": 0.45, "concept_relation": 0.11}
SHOTS = 3


@dataclass(frozen=True)
class Template:
    """One prompt file: its instruction and its `inputs => caption` examples."""

    instruction: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """One question to the LLM; `background` indexes `BACKGROUNDS` where the query names one."""

    concept: int
    text: str
    template: str
    background: int | None = None


def read(name: str, folder: Path = PROMPTS) -> Template:
    """Read one prompt file."""
    lines = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    instruction = next(
        (line.removeprefix("# instruction:").strip() for line in lines if "# instruction:" in line),
        "Write one short caption.",
    )
    examples = tuple(line.strip() for line in lines if "=>" in line and not line.startswith("#"))
    return Template(instruction, examples)


def ask(concept: int, rng: random.Random) -> Query:
    """A random query about a concept, of the demo's mix of templates."""
    name = CONCEPTS[concept].name
    kind = rng.choices(list(TEMPLATE_SHARES), weights=list(TEMPLATE_SHARES.values()))[0]
    if kind == "concept":
        return Query(concept, name, kind)
    if kind == "concept_relation":
        return Query(concept, f"{name}, {rng.choice(RELATIONS)}", kind)
    background = rng.randrange(len(BACKGROUNDS))
    return Query(concept, f"{name}, {BACKGROUNDS[background].phrase}", kind, background)


def prompt(query: Query, template: Template, rng: random.Random) -> str:
    """The text the LLM completes."""
    shots = rng.sample(template.examples, SHOTS)
    return "\n".join([template.instruction, *shots, f"{query.text} =>"])


def names(concept: int, caption: str) -> bool:
    """Whether a caption contains the concept's name or another word for it."""
    low = caption.lower()
    return any(re.search(rf"\b{re.escape(word)}\b", low) for word in CONCEPTS[concept].words)


def trim(answer: str, concept: int, *, max_words: int) -> str | None:
    """The caption in an answer: its first line, if it names the concept and is short enough."""
    caption = answer.lstrip().split("\n")[0].strip(" \"'")
    if "=>" in caption or not 2 <= len(caption.split()) <= max_words:
        return None
    return caption if names(concept, caption) else None
