"""A block's facts as columns: what repeats is named once, numbers are differences.

Columns compress better than rows: a block of groups has few sources, templates and fingerprints,
its steps and times hardly change, and its counters rise.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from online_synclr.ledger.facts import FirstUse, UseCount
from online_synclr.stream.group import Origin, Recipe
from online_synclr.stream.messages import MAX_TEXT

_TEXTS = (
    *("concept", "source", "template", "background", "relation"),
    *("llm_fingerprint", "image_fingerprint"),
)
_NUMBERS = ("run_seed", "incarnation", "stream", "counter", "num_images")
_ORIGIN = ("run_seed", "incarnation", "stream", "counter")


class Texts(msgspec.Struct, frozen=True, array_like=True):
    """A column of texts that repeat: the different ones, and which one each row has."""

    different: list[str]
    chosen: list[int]


class Block(msgspec.Struct, frozen=True, array_like=True):
    """First uses from entry `first_entry` on, and use counts. Numbers are differences.

    `origins` holds the columns of those entries that have one, `with_origin` their positions.
    """

    first_entry: int
    captions: list[str]
    texts: list[Texts]
    numbers: list[list[int]]
    steps: list[int]
    times_s: list[int]
    with_origin: list[int]
    origins: list[list[int]]
    counted: list[int]
    uses: list[int]
    uses_steps: list[int]
    left: list[bool]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Block)


def encode(first_entry: int, firsts: Sequence[FirstUse], counts: Sequence[UseCount]) -> bytes:
    """A block's payload, not yet compressed; `firsts` are numbered from `first_entry` on."""
    recipes = [fact.recipe for fact in firsts]
    positions = [index for index, recipe in enumerate(recipes) if recipe.origin is not None]
    origins = [origin for recipe in recipes if (origin := recipe.origin) is not None]
    block = Block(
        first_entry=first_entry,
        captions=[recipe.caption for recipe in recipes],
        texts=[_named_once([getattr(recipe, name) for recipe in recipes]) for name in _TEXTS],
        numbers=[_differences(getattr(recipe, name) for recipe in recipes) for name in _NUMBERS],
        steps=_differences(fact.step for fact in firsts),
        times_s=_differences(fact.time_s for fact in firsts),
        with_origin=_differences(positions),
        origins=[_differences(getattr(origin, name) for origin in origins) for name in _ORIGIN],
        counted=_differences(count.entry for count in counts),
        uses=[count.uses for count in counts],
        uses_steps=_differences(count.step for count in counts),
        left=[count.left for count in counts],
    )
    return _encoder.encode(block)


def decode(payload: bytes) -> tuple[list[FirstUse], list[UseCount]]:
    """The facts of a block, within the bounds that recipes have on the wire.

    Raises:
        ValueError: it is not what `encode` makes.
    """
    try:
        block = _decoder.decode(payload)
        return _first_uses(block), _use_counts(block)
    except (msgspec.MsgspecError, IndexError, ValueError) as error:
        raise ValueError(f"no block of facts: {error}") from error


def _first_uses(block: Block) -> list[FirstUse]:
    if (len(block.texts), len(block.numbers)) != (len(_TEXTS), len(_NUMBERS)):
        raise ValueError("it has other columns")
    columns: list[Sequence[Any]] = [
        _bounded(block.captions),
        *(_spelt_out(column) for column in block.texts),
        *(_summed(column) for column in block.numbers),
        _origins(block),
    ]
    names = ("caption", *_TEXTS, *_NUMBERS, "origin")
    rows = zip(_summed(block.steps), _summed(block.times_s), *columns, strict=True)
    return [
        FirstUse(entry, Recipe(**dict(zip(names, values, strict=True))), step, time_s)
        for entry, (step, time_s, *values) in enumerate(rows, block.first_entry)
    ]


def _origins(block: Block) -> list[Origin | None]:
    origins: list[Origin | None] = [None] * len(block.captions)
    if len(block.origins) != len(_ORIGIN):
        raise ValueError("it has other columns")
    columns = [_summed(column) for column in block.origins]
    for position, *values in zip(_summed(block.with_origin), *columns, strict=True):
        origins[position] = Origin(**dict(zip(_ORIGIN, values, strict=True)))
    return origins


def _use_counts(block: Block) -> list[UseCount]:
    rows = zip(
        *(_summed(block.counted), _naturals(block.uses), _summed(block.uses_steps), block.left),
        strict=True,
    )
    return [UseCount(*row) for row in rows]


def _named_once(values: Sequence[str]) -> Texts:
    places: dict[str, int] = {}
    chosen = [places.setdefault(value, len(places)) for value in values]
    return Texts(list(places), chosen)


def _spelt_out(column: Texts) -> list[str]:
    different = _bounded(column.different)
    return [different[place] for place in column.chosen]


def _bounded(texts: list[str]) -> list[str]:
    if texts and max(map(len, texts)) > MAX_TEXT:
        raise ValueError("a text is too long")
    return texts


def _summed(differences: Iterable[int]) -> list[int]:
    return _naturals(list(accumulate(differences)))


def _naturals(numbers: list[int]) -> list[int]:
    if numbers and not 0 <= min(numbers) <= max(numbers) < 2**63:
        raise ValueError("a number is out of bounds")
    return numbers


def _differences(values: Iterable[int]) -> list[int]:
    return [after - before for before, after in pairwise((0, *values))]
