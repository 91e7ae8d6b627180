"""A block's facts as columns: what repeats is named once, numbers are differences.

Columns compress better than rows: a block of groups has few sources, templates and fingerprints,
its steps and times hardly change, and its counters rise.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import msgspec

from online_synclr.ledger.facts import FirstUse, UseCount
from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.group import Origin, Recipe
from online_synclr.stream.messages import check_recipe

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
    """The facts of a block.

    Raises:
        ValueError: it is not what `encode` makes.
    """
    try:
        block = _decoder.decode(payload)
        firsts = _first_uses(block)
        for fact in firsts:
            check_recipe(fact.recipe)
    except (msgspec.MsgspecError, IndexError, TypeError, MalformedMessage) as error:
        raise ValueError(f"no block of facts: {error}") from error
    return firsts, _use_counts(block)


def _first_uses(block: Block) -> list[FirstUse]:
    texts = [[column.different[index] for index in column.chosen] for column in block.texts]
    numbers = [accumulate(column) for column in block.numbers]
    origins: list[Origin | None] = [None] * len(block.captions)
    columns = [accumulate(column) for column in block.origins]
    for position, *values in zip(accumulate(block.with_origin), *columns, strict=True):
        origins[position] = Origin(**dict(zip(_ORIGIN, values, strict=True)))
    rows = zip(
        block.captions,
        zip(*texts, strict=True),
        zip(*numbers, strict=True),
        origins,
        accumulate(block.steps),
        accumulate(block.times_s),
        strict=True,
    )
    return [
        FirstUse(
            block.first_entry + index,
            Recipe(
                caption=caption,
                **dict(zip(_TEXTS, words, strict=True)),
                **dict(zip(_NUMBERS, values, strict=True)),
                origin=origin,
            ),
            step,
            time_s,
        )
        for index, (caption, words, values, origin, step, time_s) in enumerate(rows)
    ]


def _use_counts(block: Block) -> list[UseCount]:
    rows = zip(
        accumulate(block.counted), block.uses, accumulate(block.uses_steps), block.left, strict=True
    )
    return [UseCount(*row) for row in rows]


def _named_once(values: Sequence[str]) -> Texts:
    places: dict[str, int] = {}
    chosen = [places.setdefault(value, len(places)) for value in values]
    return Texts(list(places), chosen)


def _differences(values: Iterable[int]) -> list[int]:
    return [after - before for before, after in pairwise((0, *values))]
