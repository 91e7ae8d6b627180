"""What the embedded model learns to draw: its concepts, and the icons each one is drawn from.

They stand in `concepts.tsv` beside this file. Their order is the class order of the judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One drawable thing.

    icons: icon names tried in every pack; all that a pack has are used.
    also: other words that name it in a caption.
    paintable: whether any hue is natural (a car), or only small shifts are (a banana).
    offered: whether captions may be asked for it.
    """

    name: str
    icons: tuple[str, ...]
    also: tuple[str, ...] = ()
    paintable: bool = False
    offered: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """The name and the other words for one such thing."""
        return (self.name, *self.also)


_ODD_PLURALS = {
    "wolf": "wolves", "mouse": "mice", "sheep": "sheep", "deer": "deer", "fish": "fish",
    "shrimp": "shrimp", "squid": "squid", "cactus": "cacti", "octopus": "octopuses",
    "tomato": "tomatoes", "potato": "potatoes", "volcano": "volcanoes", "scarf": "scarves",
    "leaf": "leaves", "snowman": "snowmen", "dice": "dice", "corn": "corn",
    "bus": "buses", "lightning": "lightning", "popcorn": "popcorn", "milk": "milk",
    # "watches" is mostly a verb
    "watch": "wristwatches",
}  # fmt: skip
_SINGULARS_IN_S = ("cactus", "octopus", "bus", "hibiscus", "dress", "hourglass", "magnifying glass")


def plural_of(noun: str) -> str:
    """The plural of a noun; a noun that ends in s is one already, but for a few."""
    *before, last = noun.split(" ")
    if last in _ODD_PLURALS:
        return " ".join([*before, _ODD_PLURALS[last]])
    if noun in _SINGULARS_IN_S or last.endswith(("x", "sh", "ch")):
        return f"{noun}es"
    if last.endswith("s"):
        return noun
    return f"{noun[:-1]}ies" if re.search("[^aeiou]y$", last) else f"{noun}s"


def _read(path: Path) -> tuple[Concept, ...]:
    """Read `concepts.tsv`: name, icons, other words and flags, separated by tabs."""
    concepts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, icons, also, flags = [*line.split("\t"), "", ""][:4]
            concepts.append(
                Concept(
                    name=name,
                    icons=tuple(icons.split()),
                    also=tuple(word for word in also.split("|") if word),
                    paintable="paint" in flags.split(),
                    offered="reserve" not in flags.split(),
                )
            )
    return tuple(concepts)


CONCEPTS: tuple[Concept, ...] = _read(Path(__file__).with_name("concepts.tsv"))
NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS)
OFFERED: tuple[int, ...] = tuple(i for i, concept in enumerate(CONCEPTS) if concept.offered)


def _by_word() -> dict[str, tuple[int, bool]]:
    """Every word that names a concept: which, and whether it means several. Names go first."""
    found: dict[str, tuple[int, bool]] = {}
    for index, concept in enumerate(CONCEPTS):
        found.setdefault(concept.name, (index, False))
    for index, concept in enumerate(CONCEPTS):
        for word in concept.words:
            found.setdefault(word, (index, False))
            found.setdefault(plural_of(word), (index, True))
    return found


_BY_WORD = _by_word()
_MENTION = re.compile(rf"\b({'|'.join(map(re.escape, sorted(_BY_WORD, key=len, reverse=True)))})\b")


@dataclass(frozen=True)
class Mention:
    """One naming of a concept in a text: which, several of it, by what word, and where."""

    concept: int
    several: bool
    word: str
    start: int
    end: int


def mentions(text: str) -> Iterator[Mention]:
    """Every concept a text names, in order; longer names first ("hot dog" names no dog)."""
    for match in _MENTION.finditer(text.lower()):
        concept, several = _BY_WORD[match.group(1)]
        yield Mention(concept, several, match.group(1), match.start(), match.end())
