"""Training captions: templates that say true things of a scene, and reading the LLM's captions.

A caption comes as a `Wish` for the composer before the scene is drawn; what a template says of the
object's colour is filled in afterwards, from the scene.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from recipes.embedded_image_model import colours
from recipes.embedded_image_model.backgrounds import BACKGROUNDS, NUM_SCENES, SCENE_SHARE
from recipes.embedded_image_model.compose import Wish
from recipes.embedded_image_model.concepts import CONCEPTS

# relation word -> where the second object stands, and whether it covers the first
RELATIONS: dict[str, tuple[str, bool]] = {
    "in front of": ("overlap", False),
    "next to": ("side", True),
    "besides": ("side", True),
    "beside": ("side", True),
    "near": ("side", True),
    "with": ("side", True),
    "and": ("side", True),
    "behind": ("overlap", True),
    "over": ("below", False),
    "above": ("below", False),
    "on": ("below", False),
    "under": ("above", False),
    "below": ("above", False),
}
SMALL = ("small", "little", "tiny")
LARGE = ("large", "big", "huge")
FILLERS = (
    "cute", "happy", "nice", "beautiful", "shiny", "old", "lovely", "bright", "funny", "simple",
    "single", "fresh", "friendly", "new", "pretty", "lonely", "colorful", "sweet", "tall", "young",
)  # fmt: skip
VERBS = (
    "standing", "sitting", "resting", "lying", "waiting", "seen", "placed", "floating", "moving",
)  # fmt: skip
LEADS = ("a photo of", "a picture of", "an image of", "a drawing of", "an icon of", "there is")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A caption to be: what it asks of the scene, and how to finish its words."""

    wish: Wish
    text: str
    name_colour: bool = False

    def finish(self, colour: int) -> str:
        """The caption; `{c}` becomes the scene's colour word where there is one."""
        if not self.name_colour:
            return self.text
        word = colours.NAMES[colour] if colour >= 0 else ""
        return tidy(self.text.replace("{c}", word))


def tidy(text: str) -> str:
    """Single spaces, and `an` before a vowel."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def article(rng: random.Random) -> str:
    """What stands before a noun."""
    return rng.choices(["a", "the", "one", ""], weights=[70, 14, 3, 13])[0]


def template_draft(concept: int, rng: random.Random, *, pair_share: float) -> Draft:
    """A caption from the templates, for a random wish about `concept`."""
    noun = rng.choice(CONCEPTS[concept].words) if rng.random() < 0.2 else CONCEPTS[concept].name
    size = rng.choice(["small", "large"]) if rng.random() < 0.2 else None
    size_word = rng.choice(SMALL if size == "small" else LARGE) if size else ""
    coloured = rng.random() < 0.35
    filler = rng.choice(FILLERS) if rng.random() < 0.3 else ""
    first = (
        rng.choice(("some", "two", "the", "")) if noun == CONCEPTS[concept].plural else article(rng)
    )
    head = f"{first} {size_word} {filler} {'{c}' if coloured else ''} {noun}"
    if rng.random() < 0.15:
        head = f"{rng.choice(LEADS)} {head}"
    if rng.random() < pair_share:
        return _pair(concept, head, coloured, rng)
    verb = rng.choice(VERBS) if rng.random() < 0.3 else ""
    background = random_background(rng) if rng.random() < 0.65 else None
    place = rng.choice(BACKGROUNDS[background].wordings) if background is not None else ""
    wish = Wish(concept=concept, background=background, size=size)
    return Draft(wish=wish, text=tidy(f"{head} {verb} {place}"), name_colour=coloured)


def _pair(concept: int, head: str, coloured: bool, rng: random.Random) -> Draft:
    """A caption of two things."""
    second = rng.randrange(len(CONCEPTS))
    word = rng.choice(list(RELATIONS))
    place, front = RELATIONS[word]
    background = random_background(rng) if rng.random() < 0.3 else None
    where = rng.choice(BACKGROUNDS[background].wordings) if background is not None else ""
    text = tidy(f"{head} {word} {article(rng)} {CONCEPTS[second].name} {where}")
    wish = Wish(concept=concept, background=background, second=second, place=place, front=front)
    return Draft(wish=wish, text=text, name_colour=coloured)


def random_background(rng: random.Random) -> int:
    """A background kind: scenes and plain colours by their share."""
    if rng.random() < SCENE_SHARE:
        return rng.randrange(NUM_SCENES)
    return rng.randrange(NUM_SCENES, len(BACKGROUNDS))


def find_background(caption: str, asked: int | None = None) -> int | None:
    """The background kind a free caption names, if it names exactly one.

    Whole phrases go before single words ("snowy field" is no meadow); where several kinds are
    named, the one that was asked for wins.
    """
    low = caption.lower()
    for kind in range(NUM_SCENES, len(BACKGROUNDS)):
        if any(phrase in low for phrase in BACKGROUNDS[kind].words):
            return kind
    for kind in range(NUM_SCENES):
        if BACKGROUNDS[kind].phrase in low:
            return kind
    words = set(re.findall(r"[a-z]+", low))
    kinds = [k for k in range(NUM_SCENES) if words & set(BACKGROUNDS[k].words)]
    if asked in kinds:
        return asked
    return kinds[0] if len(kinds) == 1 else None


def find_second(concept: int, caption: str) -> tuple[int, str] | None:
    """The first other concept that follows a relation word, with the word."""
    low = caption.lower()
    for word in RELATIONS:
        match = re.search(rf"\b{word} (?:a|an|the|another|some|two)? ?((?:[a-z]+ ?){{1,3}})", low)
        if match is None:
            continue
        for index, other in enumerate(CONCEPTS):
            if index != concept and any(
                re.search(rf"\b{re.escape(name)}\b", match.group(1)) for name in other.words
            ):
                return index, word
    return None


def find_colour(concept: int, caption: str) -> int | None:
    """The colour word just before the concept's name."""
    low = caption.lower()
    for name in CONCEPTS[concept].words:
        match = re.search(rf"\b([a-z]+)(?: [a-z]+)? {re.escape(name)}\b", low)
        word = colours.ALIASES.get(match.group(1), match.group(1)) if match else ""
        if word in colours.NAMES:
            return colours.NAMES.index(word)
    return None


def find_size(caption: str) -> str | None:
    """The size a caption names."""
    words = set(re.findall(r"[a-z]+", caption.lower()))
    if words & set(SMALL):
        return "small"
    return "large" if words & set(LARGE) else None


def free_draft(concept: int, caption: str, asked_background: int | None) -> Draft:
    """A caption the LLM wrote, with as much of a wish as can be read from it."""
    background = find_background(caption, asked_background)
    wish = Wish(concept=concept, background=background, size=find_size(caption),
                colour=find_colour(concept, caption))  # fmt: skip
    found = find_second(concept, caption)
    if found is not None:
        place, front = RELATIONS[found[1]]
        wish = Wish(concept=concept, background=wish.background, colour=wish.colour,
                    second=found[0], place=place, front=front)  # fmt: skip
    return Draft(wish=wish, text=caption.rstrip("."))
