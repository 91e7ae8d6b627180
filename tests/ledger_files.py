"""Ledgers made for tests, without a trainer."""

from collections.abc import Sequence
from pathlib import Path

from online_synclr.config.schema import ImagesConfig
from online_synclr.ledger.durable_file import DurableFile
from online_synclr.ledger.facts import Header, file_name
from online_synclr.ledger.writer import LedgerWriter
from online_synclr.stream.group import Recipe
from tests.stream_helpers import make_recipe

IMAGES = ImagesConfig(backend="synthetic", per_caption=2, send_px=16, batch_groups=4)


def make_header(incarnation: int = 1, trainer: int = 0, resumed_step: int = 0) -> Header:
    return Header(
        run_id="run-1",
        run_seed=7,
        incarnation=incarnation,
        trainer=trainer,
        num_trainers=1,
        resumed_step=resumed_step,
        started_s=1_700_000_000,
        images=IMAGES.model_dump_json(),
    )


def open_writer(
    folder: Path, header: Header | None = None, said: list[str] | None = None
) -> LedgerWriter:
    header = header or make_header()
    path = folder / "ledger" / file_name(header.incarnation, header.trainer)
    return LedgerWriter(DurableFile(path), header, say=([] if said is None else said).append)


def write_attempt(
    folder: Path, header: Header, steps: Sequence[Sequence[Recipe]], *, uses: int = 1
) -> None:
    """One trainer's attempt: at each step these groups are first used; each leaves at once."""
    writer = open_writer(folder, header)
    for step, recipes in enumerate(steps, header.resumed_step + 1):
        for recipe in recipes:
            entry = writer.first_use(recipe, step=step, time_s=1_700_000_000 + step)
            writer.count(entry, uses, step=step, left=True)
    assert writer.close() is None


def recipes(first: int, end: int, *, incarnation: int = 1, stream: int = 0) -> list[Recipe]:
    """Recipes with these counters."""
    import msgspec

    return [
        msgspec.structs.replace(make_recipe(counter, stream=stream), incarnation=incarnation)
        for counter in range(first, end)
    ]
