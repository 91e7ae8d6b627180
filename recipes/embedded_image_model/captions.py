"""Training captions: templates that say what a scene holds, and reading the LLM's captions.

A caption comes as a `Wish` for the composer before the scene is drawn; what a template says of the
object's colour is filled in afterwards, from the scene.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from recipes.embedded_image_model import colours
from recipes.embedded_image_model.backgrounds import BACKGROUNDS, NUM_SCENES, SCENE_SHARE
from recipes.embedded_image_model.compose import Wish
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES, Mention, mentions, plural_of

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
    "single", "fresh", "friendly", "new", "pretty", "lonely", "colorful", "dear", "tall", "young",
)  # fmt: skip
VERBS = (
    "standing", "sitting", "resting", "lying", "waiting", "seen", "placed", "floating", "moving",
)  # fmt: skip
LEADS = ("a photo of", "a picture of", "an image of", "a drawing of", "an icon of", "there is")
# Shares of template captions: with a word that means nothing, and of several of one thing.
NONSENSE_SHARE, PLURAL_SHARE = 0.1, 0.05


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
    if rng.random() < NONSENSE_SHARE:
        filler = nonsense(rng)
    several = rng.random() < PLURAL_SHARE and plural_of(noun) != noun
    if several:
        noun, first = plural_of(noun), rng.choice(("some", "two", "a pair of", "the", ""))
        size_word = ""
    else:
        first = article(rng)
    head = f"{first} {size_word} {filler} {'{c}' if coloured else ''} {noun}"
    if rng.random() < 0.15:
        head = f"{rng.choice(LEADS)} {head}"
    if not several and rng.random() < pair_share:
        return _pair(concept, head, coloured, rng)
    verb = rng.choice(VERBS) if rng.random() < 0.3 else ""
    background = random_background(rng) if rng.random() < 0.65 else None
    place = rng.choice(BACKGROUNDS[background].wordings) if background is not None else ""
    wish = Wish(concept=concept, background=background, size=size)
    if several:
        wish = Wish(concept=concept, background=background, second=concept, place="side")
    return Draft(wish=wish, text=tidy(f"{head} {verb} {place}"), name_colour=coloured)


def nonsense(rng: random.Random) -> str:
    """A word that no caption means anything by: unknown words must do no harm."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8)))


def with_unknown_word(caption: str, rng: random.Random) -> str:
    """A caption with such a word put in somewhere behind its first."""
    words = caption.split()
    words.insert(rng.randint(1, len(words)), nonsense(rng))
    return " ".join(words)


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


def find_background(caption: str, asked: int | None = None) -> re.Match[str] | None:
    """Where a free caption names a background; `background_of` says which.

    Whole wordings go before single words ("snowy field" is no meadow), longer ones first. A single
    word counts after a preposition only ("a wooden table" is a thing, "on the table" a place).
    Where several kinds are named, the one that was asked for wins.
    """
    low = caption.lower().rstrip(" .!")
    for pattern in (_WORDINGS, _WORDS):
        found = list(pattern.finditer(low))
        for match in found:
            if background_of(match) == asked:
                return match
        if found:
            return found[0]
    return None


def background_of(match: re.Match[str]) -> int:
    """The background kind that a match of `find_background` names."""
    return _KIND_OF[match.group("named")]


def _kinds_by_text() -> dict[str, int]:
    named: dict[str, int] = {}
    for kind, background in enumerate(BACKGROUNDS):
        for text in (background.phrase, *background.wordings, *background.words):
            named.setdefault(text, kind)
    return named


def _pattern(texts: Iterable[str], before: str = "") -> re.Pattern[str]:
    """Any of the texts as whole words, longest first; "on red" only at the end of a caption."""
    parts = [
        re.escape(text) + ("$" if re.fullmatch(r"on [a-z]+", text) else "")
        for text in sorted(texts, key=len, reverse=True)
    ]
    return re.compile(rf"{before}\b(?P<named>{'|'.join(parts)})\b")


_KIND_OF = _kinds_by_text()
_WORDINGS = _pattern(text for b in BACKGROUNDS for text in (b.phrase, *b.wordings))
_WORDS = _pattern(
    (word for b in BACKGROUNDS for word in b.words),
    r"\b(?:in|on|at|under|by|near|over|above|through|across|along|against|into|behind|before|from)"
    r"(?: [a-z]+){0,3}? ",
)


def things(concept: int, caption: str) -> list[Mention]:
    """The first naming of every concept in a caption, in order.

    What names the background ("on a rainbow gradient", "under the stars") names no thing, unless
    it is all there is to name `concept`, which the caption was asked for.
    """
    match = find_background(caption)
    inside = match.span("named") if match else (0, 0)
    every = list(mentions(caption))
    kept = [m for m in every if m.end <= inside[0] or m.start >= inside[1]]
    first: dict[int, Mention] = {}
    for found in kept or [m for m in every if m.concept == concept]:
        first.setdefault(found.concept, found)
    return list(first.values())


def find_relation(between: str) -> str:
    """The relation word in the text between two things; "and" where there is none."""
    return next((word for word in RELATIONS if re.search(rf"\b{word}\b", between)), "and")


def _words_before(caption: str, thing: Mention, count: int) -> list[str]:
    """The words just before a thing, nearest first."""
    return re.findall(r"[a-z]+", caption[: thing.start].lower())[: -count - 1 : -1]


def find_colour(caption: str, thing: Mention) -> int | None:
    """The colour word at most one word before a thing."""
    for found in _words_before(caption, thing, 2):
        word = colours.ALIASES.get(found, found)
        if word in colours.NAMES:
            return colours.NAMES.index(word)
    return None


def find_size(caption: str, thing: Mention) -> str | None:
    """The size word at most two words before a thing."""
    words = set(_words_before(caption, thing, 3))
    if words & set(SMALL):
        return "small"
    return "large" if words & set(LARGE) else None


def free_draft(concept: str, caption: str, asked_background: str | None) -> Draft | None:
    """A caption the LLM wrote, with as much of a wish as can be read from it.

    concept, asked_background: what it was asked for. None where it names nothing we can draw.
    """
    found = things(NAMES.index(concept), caption)
    if not found:
        return None
    match = find_background(caption, _KIND_OF.get(asked_background or ""))
    wish = Wish(
        concept=found[0].concept,
        background=None if match is None else background_of(match),
        size=find_size(caption, found[0]),
        colour=find_colour(caption, found[0]),
    )
    if len(found) > 1:
        place, front = RELATIONS[find_relation(caption[found[0].end : found[1].start].lower())]
        wish = replace(wish, size=None, second=found[1].concept, place=place, front=front)
    elif found[0].several:
        wish = replace(wish, size=None, second=found[0].concept, place="side")
    return Draft(wish=wish, text=caption.rstrip("."))
