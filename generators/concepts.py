"""The concept bank and the endless stream of draws from it.

A bank is plain files (a YAML, concept lists, background lists, prompts), all replaceable. A draw
says what to write next: a concept, a template, perhaps a background or a relation, and which
in-context examples to show. Draw number `counter` of a stream is a pure function of (run seed,
incarnation, stream, counter) and of the shares in force: any draw can be made again, in any order,
with no state to save.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np

from generators.concept_files import (
    ConceptBankError,
    read_concept_rows,
    read_lines,
    read_yaml_mapping,
)
from generators.prompts import EXAMPLES_PER_PROMPT, TEMPLATES, PromptBook, TemplateName

__all__ = ["Concept", "ConceptBank", "ConceptBankError", "ConceptStream", "Draw", "Source"]

Kind = Literal["object", "scene", "texture"]
T = TypeVar("T")
KINDS: tuple[Kind, ...] = get_args(Kind)
GENERIC_DOMAIN = "generic"
_BANK_KEYS = {"sources", "backgrounds", "relations", "prompts", "templates"}
_SOURCE_KEYS = {"file", "share", "kind", "append", "domain"}


@dataclass(frozen=True)
class Concept:
    """A thing, scene or texture to write about.

    `name` may end with a hint in brackets, 'crane (bird)', for the language model to read; captions
    are not expected to repeat it. `domain` names the backgrounds that suit it.
    """

    name: str
    source: str
    kind: Kind
    domain: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draw:
    """What one caption is to be written from."""

    concept: Concept
    template: TemplateName
    background: str | None
    relation: str | None
    example_indices: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One list of concepts and its share of the captions (relative to the other sources)."""

    name: str
    share: float
    kind: Kind
    concepts: tuple[Concept, ...]


@dataclass(frozen=True)
class ConceptBank:
    """Everything that draws are made from; checked when loaded."""

    sources: tuple[Source, ...]
    templates: Mapping[Kind, Mapping[TemplateName, float]]
    backgrounds: Mapping[str, tuple[str, ...]]
    relations: tuple[str, ...]
    prompts: PromptBook

    @classmethod
    def load(cls, path: Path) -> ConceptBank:
        """Read a bank from its YAML; the paths in it are relative to the YAML's folder.

        Raises:
            ConceptBankError: anything a draw could need is missing or wrong; one sentence that
                names the file and the mend.
        """
        content = read_yaml_mapping(path)
        _refuse_unknown_keys(content, _BANK_KEYS, path, "bank")
        _require(content, {"sources", "prompts", "templates"}, path, "bank")
        bank = cls(
            sources=_load_sources(_mapping(content, "sources", path), path),
            templates=_load_templates(_mapping(content, "templates", path), path),
            backgrounds=_load_backgrounds(_mapping(content, "backgrounds", path), path),
            relations=_load_relations(content, path),
            prompts=PromptBook.load(path.parent / str(content["prompts"])),
        )
        _check_every_draw_is_possible(bank, path)
        return bank


class ConceptStream:
    """Random access to one stream of draws."""

    def __init__(self, bank: ConceptBank, run_seed: int, incarnation: int, stream: int) -> None:
        self._bank = bank
        self._key = (run_seed, incarnation, stream)
        self._pick_source = _WeightedPick({s: s.share for s in bank.sources})
        self._pick_template = {kind: _WeightedPick(w) for kind, w in bank.templates.items()}

    def draw(self, counter: int, shares: Mapping[str, float] | None = None) -> Draw:
        """Return draw number `counter` (>= 0); equal for equal (run seed, ..., counter, shares).

        `shares`: of the sources by name, in place of the bank's; where they leave none of its
        sources anything, the bank's.
        """
        dice = _Dice(*self._key, counter)
        source = self._source_pick(shares or {})(dice.fraction())
        concept = dice.pick(source.concepts)
        template = self._pick_template[source.kind](dice.fraction())
        background = relation = None
        if template == "concept_background":
            background = dice.pick(self._bank.backgrounds[concept.domain])
        elif template == "concept_relation":
            relation = dice.pick(self._bank.relations)
        examples = dice.distinct(len(self._bank.prompts[template].examples), EXAMPLES_PER_PROMPT)
        return Draw(concept, template, background, relation, examples)

    def _source_pick(self, shares: Mapping[str, float]) -> _WeightedPick[Source]:
        given = {s: shares[s.name] for s in self._bank.sources if shares.get(s.name, 0.0) > 0}
        return _WeightedPick(given) if given else self._pick_source


class _WeightedPick(Generic[T]):
    """Picks a key of `weights` with probability proportional to its value."""

    def __init__(self, weights: Mapping[T, float]) -> None:
        self._items = tuple(weights)
        self._cumulative = tuple(accumulate(weights.values()))

    def __call__(self, fraction: float) -> T:
        position = fraction * self._cumulative[-1]
        # Rounding may land on the very end of the last interval.
        return self._items[min(bisect_right(self._cumulative, position), len(self._items) - 1)]


class _Dice:
    """The random numbers of one draw.

    Made from Philox's raw bits, which numpy promises to keep; it makes no such promise for the
    methods of its Generator, and a recipe must find its concept again with a later numpy.
    """

    def __init__(self, run_seed: int, incarnation: int, stream: int, counter: int) -> None:
        text = f"concepts:{run_seed}:{incarnation}:{stream}:{counter}"
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._bits = np.random.Philox(key=int.from_bytes(key, "little"))

    def fraction(self) -> float:
        """A uniform number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[int(self.fraction() * len(items))]

    def distinct(self, population: int, num: int) -> tuple[int, ...]:
        """Return `num` different indices below `population`, in random order."""
        left = list(range(population))
        return tuple(left.pop(int(self.fraction() * len(left))) for _ in range(num))


def _load_sources(content: Mapping[str, Any], path: Path) -> tuple[Source, ...]:
    if not content:
        raise ConceptBankError(f"{path}: sources is empty; name at least one concept list")
    return tuple(_load_source(str(name), entry, path) for name, entry in content.items())


def _load_source(name: str, entry: Any, path: Path) -> Source:
    where = f"source '{name}'"
    if not isinstance(entry, dict):
        raise ConceptBankError(f"{path}: {where} is no mapping; give it file, share and kind")
    _refuse_unknown_keys(entry, _SOURCE_KEYS, path, where)
    _require(entry, {"file", "share", "kind"}, path, where)
    kind = entry["kind"]
    if kind not in KINDS:
        raise ConceptBankError(f"{path}: {where} has kind '{kind}'; use one of {', '.join(KINDS)}")
    share = _positive(entry["share"], path, f"the share of {where}")
    file = path.parent / str(entry["file"])
    domain = str(entry.get("domain", GENERIC_DOMAIN))
    concepts = _load_concepts(file, name, kind, domain, str(entry.get("append", "")))
    return Source(name=name, share=share, kind=kind, concepts=concepts)


def _load_concepts(
    file: Path, source: str, kind: Kind, default_domain: str, append: str
) -> tuple[Concept, ...]:
    concepts: dict[str, Concept] = {}
    for bare_name, domain, others in read_concept_rows(file):
        name, aliases = _append_word(bare_name, others, append)
        if name.casefold() in concepts:
            raise ConceptBankError(f"{file} lists '{name}' twice; remove one of them")
        concept = Concept(name, source, kind, domain or default_domain, aliases)
        concepts[name.casefold()] = concept
    if not concepts:
        raise ConceptBankError(f"{file} lists no concept; add one a line or drop '{source}'")
    return tuple(concepts.values())


def _append_word(name: str, aliases: tuple[str, ...], word: str) -> tuple[str, tuple[str, ...]]:
    if not word or word.casefold() in name.casefold().split():
        return name, aliases
    # The bare name stays an alias: a caption need not repeat the appended word.
    return f"{name} {word}", (name, *aliases)


def _load_templates(
    content: Mapping[str, Any], path: Path
) -> dict[Kind, Mapping[TemplateName, float]]:
    return {_kind(kind, path): _load_shares(entry, kind, path) for kind, entry in content.items()}


def _kind(kind: str, path: Path) -> Kind:
    if kind not in KINDS:
        raise ConceptBankError(f"{path}: templates names '{kind}'; use {', '.join(KINDS)}")
    return kind


def _load_shares(entry: Any, kind: str, path: Path) -> dict[TemplateName, float]:
    if not isinstance(entry, dict) or not entry:
        raise ConceptBankError(f"{path}: templates.{kind} is empty; give it a share per template")
    shares: dict[TemplateName, float] = {}
    for name, share in entry.items():
        if name not in TEMPLATES:
            raise ConceptBankError(
                f"{path}: templates.{kind} names '{name}'; use one of {', '.join(TEMPLATES)}"
            )
        shares[name] = _positive(share, path, f"templates.{kind}.{name}")
    return shares


def _load_backgrounds(content: Mapping[str, Any], path: Path) -> dict[str, tuple[str, ...]]:
    backgrounds: dict[str, tuple[str, ...]] = {}
    for domain, name in content.items():
        file = path.parent / str(name)
        backgrounds[str(domain)] = tuple(read_lines(file))
        if not backgrounds[str(domain)]:
            raise ConceptBankError(f"{file} lists no background; add one a line")
    return backgrounds


def _load_relations(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    relations = content.get("relations") or []
    # YAML reads a bare on/off/yes/no as a truth value; as a relation "on" is common.
    if not isinstance(relations, list) or not all(isinstance(r, (str, bool)) for r in relations):
        raise ConceptBankError(f"{path}: relations must be a list of words; quote each of them")
    return tuple({True: "on", False: "off"}[r] if isinstance(r, bool) else r for r in relations)


def _check_every_draw_is_possible(bank: ConceptBank, path: Path) -> None:
    for source in bank.sources:
        if source.kind not in bank.templates:
            raise ConceptBankError(
                f"{path}: source '{source.name}' has kind '{source.kind}' but templates has no "
                f"entry for it; add templates.{source.kind}"
            )
        _check_source(bank, source, path)


def _check_source(bank: ConceptBank, source: Source, path: Path) -> None:
    used = bank.templates[source.kind]
    for template in used:
        if template not in bank.prompts:
            raise ConceptBankError(
                f"{path}: template '{template}' has no prompt file; add {template}.txt to prompts"
            )
    if "concept_relation" in used and not bank.relations:
        raise ConceptBankError(f"{path}: relations is empty but used; add at least one")
    if "concept_background" not in used:
        return
    missing = sorted({c.domain for c in source.concepts} - set(bank.backgrounds))
    if missing:
        raise ConceptBankError(
            f"{path}: domain '{missing[0]}' of source '{source.name}' has no backgrounds; "
            f"add 'backgrounds: {{{missing[0]}: <file>}}'"
        )


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ConceptBankError(f"{path}: {key} is no mapping; write 'name: value' lines under it")
    return value


def _positive(value: Any, path: Path, what: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ConceptBankError(f"{path}: {what} is {value!r}; write a number above 0 or drop it")
    return float(value)


def _require(content: Mapping[str, Any], keys: set[str], path: Path, where: str) -> None:
    missing = sorted(keys - set(content))
    if missing:
        raise ConceptBankError(f"{path}: {where} has no {', '.join(missing)}; add it")


def _refuse_unknown_keys(
    content: Mapping[str, Any], known: set[str], path: Path, where: str
) -> None:
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise ConceptBankError(
            f"{path}: {where} has an unknown key '{unknown[0]}'; use {', '.join(sorted(known))}"
        )
