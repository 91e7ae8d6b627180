"""Whether a caption names its concept, tolerantly.

Language models write "two foxes" for "red fox", "T shirt" for "T-shirt" and "a Beetle" for
"Volkswagen Beetle Hatchback 2012 car". Refusing those would refuse good captions; accepting
anything would let the model wander off. The rule: the name or an alias appears, or the head noun of
the name or of an alias does; case, accents, hyphens and plurals are ignored.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from generators.concepts import Concept
from online_synclr.caption_identity import normalise_caption

_HINT = re.compile(r"\s*\([^()]*\)\s*$")
_HEAD_ENDS_BEFORE = frozenset({"of", "in", "on", "with", "for", "and", "from", "to", "at"})
_ARTICLES = frozenset({"a", "an", "the"})
_IRREGULAR = {
    "mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth", "men": "man",
    "women": "woman", "children": "child", "people": "person", "oxen": "ox", "lice": "louse",
    "dice": "die", "cacti": "cactus", "fungi": "fungus", "wolves": "wolf", "leaves": "leaf",
    "knives": "knife", "loaves": "loaf", "shelves": "shelf", "calves": "calf", "scarves": "scarf",
    "hooves": "hoof", "halves": "half", "octopi": "octopus", "larvae": "larva", "pupae": "pupa",
    "algae": "alga", "antennae": "antenna", "sheaves": "sheaf", "elves": "elf", "wives": "wife",
    "buses": "bus", "gases": "gas",
}  # fmt: skip


def bare_name(name: str) -> str:
    """Return a concept's name without its hint: 'crane (bird)' -> 'crane'."""
    return _HINT.sub("", name) or name


def names_concept(caption: str, concept: Concept) -> bool:
    """Return whether `caption` names `concept`; see the module for how tolerantly."""
    words = [stem(word) for word in _words(caption)]
    joined = f" {' '.join(words)} "
    # Without spaces, so that "T shirt", "t-shirt" and "tshirt" agree; only for whole words.
    compact = {"".join(pair) for pair in pairwise(words)} | set(words)
    return any(
        f" {phrase} " in joined or phrase.replace(" ", "") in compact
        for phrase in _accepted_phrases(concept)
    )


def stem(word: str) -> str:
    """Return a form that singular and plural share; only ever compared with other stems."""
    word = _IRREGULAR.get(word, word)
    # "glasses" and "glass", "horses" and "horse" meet here; short words would lose too much.
    stripped = word.rstrip("es")
    if len(stripped) < 3:
        stripped = word.removesuffix("s")
    return stripped[:-1] + "i" if stripped.endswith("y") else stripped


@lru_cache(maxsize=2**16)
def _accepted_phrases(concept: Concept) -> frozenset[str]:
    phrases = set()
    for name in (bare_name(concept.name), *concept.aliases):
        words = [stem(word) for word in _words(name) if word not in _ARTICLES]
        if words:
            phrases.update({" ".join(words), _head(words)})
    return frozenset(phrases)


def _head(words: list[str]) -> str:
    """The word that says what it is: 'loaf of bread' -> 'loaf'; numbers are passed over."""
    for index, word in enumerate(words):
        if index > 0 and word in _HEAD_ENDS_BEFORE:
            words = words[:index]
            break
    named = [word for word in words if not any(char.isdigit() for char in word)]
    return (named or words)[-1]


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    # "owner's" normalises to "owner s": the lone "s" is no word of its own.
    return [word for word in normalise_caption(plain).split() if word != "s"]
