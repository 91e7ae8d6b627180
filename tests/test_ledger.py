"""The ledger on disk: what is entered comes back, whatever happens to file or disk."""

import errno
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_synclr.ledger import blocks, columns, writer
from online_synclr.ledger.blocks import Damage, read_blocks
from online_synclr.ledger.durable_file import DurableFile
from online_synclr.ledger.facts import FirstUse, UseCount
from online_synclr.ledger.reading import LedgerFile, read_ledger
from online_synclr.ledger.seed_keys import SeedKeys
from online_synclr.ledger.writer import LedgerWriter
from online_synclr.stream.group import Recipe
from tests.ledger_files import make_header, open_writer, recipes
from tests.stream_helpers import make_recipe, with_origin

NATURAL = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def recipe_of(texts: list[str], numbers: list[int], origin: list[int] | None) -> Recipe:
    names = ("run_seed", "incarnation", "stream", "counter")
    made = make_recipe()
    made = msgspec.structs.replace(
        made,
        **dict(zip(("caption", "concept", "background", "llm_fingerprint"), texts, strict=True)),
        **dict(zip(names, numbers, strict=True)),
    )
    return made if origin is None else with_origin(made, **dict(zip(names, origin, strict=True)))


RECIPES = st.builds(
    recipe_of,
    st.lists(TEXT, min_size=4, max_size=4),
    st.lists(NATURAL, min_size=4, max_size=4),
    st.none() | st.lists(NATURAL, min_size=4, max_size=4),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(RECIPES, NATURAL, NATURAL), max_size=6),
    st.lists(st.tuples(NATURAL, NATURAL, NATURAL, st.booleans()), max_size=6),
    st.integers(0, 2**40),
)
def test_every_fact_comes_back(
    groups: list[tuple[Recipe, int, int]],
    counts: list[tuple[int, int, int, bool]],
    first_entry: int,
) -> None:
    firsts = [FirstUse(first_entry + i, *group) for i, group in enumerate(groups)]
    used = [UseCount(*count) for count in counts]
    assert columns.decode(columns.encode(first_entry, firsts, used)) == (firsts, used)


def test_facts_out_of_bounds_are_no_block() -> None:
    good = FirstUse(0, make_recipe(), 1, 1)
    for bad in (
        FirstUse(0, msgspec.structs.replace(make_recipe(), caption="x" * 4097), 1, 1),
        FirstUse(0, msgspec.structs.replace(make_recipe(), concept="x" * 4097), 1, 1),
        FirstUse(0, make_recipe(-1), 1, 1),
        FirstUse(0, with_origin(counter=2**63), 1, 1),
        FirstUse(0, make_recipe(), -1, 1),
    ):
        with pytest.raises(ValueError, match="no block of facts"):
            columns.decode(columns.encode(0, [good, bad], []))
    with pytest.raises(ValueError, match="no block of facts"):
        columns.decode(b"\x93\x00\x90\x90")


def facts_in(folder: Path, damages: list[Damage] | None = None) -> list[FirstUse | UseCount]:
    ((file,),) = [attempt.files for attempt in read_ledger(folder).attempts]
    return list(file.facts(damages))


def test_blocks_are_written_as_they_fill_and_at_a_flush(tmp_path: Path) -> None:
    ledger = open_writer(tmp_path)
    given_ = recipes(0, writer.BLOCK_GROUPS + 10)
    for step, recipe in enumerate(given_):
        assert ledger.first_use(recipe, step=step, time_s=step) == step
    assert ledger.flush() is None
    firsts = [fact for fact in facts_in(tmp_path) if isinstance(fact, FirstUse)]
    assert [fact.recipe for fact in firsts] == given_
    assert [(fact.entry, fact.step, fact.time_s) for fact in firsts] == [
        (i, i, i) for i in range(len(given_))
    ]
    ledger.count(3, 2, step=1100, left=True)
    assert ledger.close() is None
    assert facts_in(tmp_path)[-1] == UseCount(3, 2, 1100, True)
    counters = ledger.counters()
    (path,) = (tmp_path / "ledger").iterdir()
    assert (counters.groups, counters.groups_on_disk) == (len(given_), len(given_))
    assert counters.lost == 0
    assert counters.num_bytes == path.stat().st_size


def written(folder: Path, num_blocks: int) -> tuple[Path, list[int]]:
    """A file of a header and blocks of two groups; where each block begins, and the end."""
    ledger, bounds = open_writer(folder), []
    (path,) = (folder / "ledger").iterdir()
    for index in range(num_blocks):
        bounds.append(path.stat().st_size)
        for recipe in recipes(2 * index, 2 * index + 2):
            ledger.first_use(recipe, step=1, time_s=1)
        assert ledger.flush() is None
    ledger.close()
    return path, [*bounds, path.stat().st_size]


def counters_in(path: Path, damages: list[Damage]) -> list[int]:
    file = LedgerFile(path, make_header())
    return [fact.recipe.counter for fact in file.facts(damages) if isinstance(fact, FirstUse)]


def test_a_file_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    path, bounds = written(tmp_path, 3)
    whole = path.read_bytes()
    for length in range(bounds[0], len(whole)):
        path.write_bytes(whole[:length])
        damages: list[Damage] = []
        num_whole = sum(end <= length for end in bounds[1:])
        assert counters_in(path, damages) == list(range(2 * num_whole))
        torn = length - bounds[num_whole]
        assert damages == ([Damage(bounds[num_whole], torn, True)] if torn else [])


def test_a_flipped_bit_costs_its_block_and_is_told(tmp_path: Path) -> None:
    path, bounds = written(tmp_path, 3)
    whole = path.read_bytes()
    for offset in range(bounds[1], bounds[2]):
        broken = bytearray(whole)
        broken[offset] ^= 1 << (offset % 8)
        path.write_bytes(broken)
        damages: list[Damage] = []
        found = counters_in(path, damages)
        in_head = offset < bounds[1] + blocks.HEAD_BYTES
        assert found == ([0, 1] if in_head else [0, 1, 4, 5])
        end = bounds[3] if in_head else bounds[2]
        assert damages == [Damage(bounds[1], end - bounds[1], in_head)]


def test_a_block_that_unpacks_to_more_than_it_says_is_damage(tmp_path: Path) -> None:
    packed = bytearray(blocks.pack(blocks.FACTS_KIND, bytes(10**6)))
    fields = list(blocks._FIELDS.unpack_from(packed))
    fields[2] = 10
    head = blocks._FIELDS.pack(*fields)
    packed[: len(head)] = head
    packed[len(head) : blocks.HEAD_BYTES] = blocks._CHECK.pack(blocks.zlib.crc32(head))
    path = tmp_path / "bomb"
    path.write_bytes(packed)
    with path.open("rb") as file:
        assert list(read_blocks(file)) == [Damage(0, len(packed), True)]
    with pytest.raises(ValueError, match="too large"):
        blocks.pack(blocks.FACTS_KIND, bytes(blocks.MAX_RAW_BYTES + 1))


def test_nothing_is_ever_written_over(tmp_path: Path) -> None:
    open_writer(tmp_path).close()
    with pytest.raises(FileExistsError):
        open_writer(tmp_path)


class FullDisk(DurableFile):
    """Writes half of a block and then fails, while `full`."""

    full = False

    def _write(self, block: bytes) -> None:
        if self.full:
            super()._write(block[: len(block) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._write(block)


def full_disk_writer(tmp_path: Path, said: list[str]) -> tuple[FullDisk, LedgerWriter]:
    file = FullDisk(tmp_path / "ledger" / "000001-t0.ledger")
    return file, LedgerWriter(file, make_header(), say=said.append)


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path: Path) -> None:
    said: list[str] = []
    file, ledger = full_disk_writer(tmp_path, said)
    first, second, third = recipes(0, 3)
    ledger.first_use(first, step=1, time_s=1)
    assert ledger.flush() is None
    safe = (tmp_path / "ledger" / "000001-t0.ledger").read_bytes()
    file.full = True
    ledger.first_use(second, step=2, time_s=2)
    for _ in range(2):
        assert ledger.flush() == "No space left on device"
    assert (tmp_path / "ledger" / "000001-t0.ledger").read_bytes() == safe, "as it was"
    assert len(said) == 1, "one sentence for one fault"
    assert "make room in run.dir" in said[0]
    ledger.first_use(third, step=3, time_s=3)
    file.full = False
    assert ledger.close() is None
    found = [fact.recipe for fact in facts_in(tmp_path) if isinstance(fact, FirstUse)]
    assert found == [first, second, third]
    assert ledger.counters().lost == 0


def test_torn_bytes_that_cannot_be_cut_off_are_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ledger = full_disk_writer(tmp_path, [])

    def refuse(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr("os.ftruncate", refuse)
        file.full = True
        ledger.first_use(make_recipe(1), step=1, time_s=1)
        assert ledger.flush() is not None
        damages: list[Damage] = []
        assert facts_in(tmp_path, damages) == []
        assert [damage.is_tail for damage in damages] == [True]
        file.full = False
        assert ledger.close() is None
    assert [fact.entry for fact in facts_in(tmp_path)] == [0]


def test_what_no_disk_takes_is_bounded_and_its_loss_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_BLOCKS", 3)
    monkeypatch.setattr(writer, "BLOCK_GROUPS", 2)
    said: list[str] = []
    file, ledger = full_disk_writer(tmp_path, said)
    file.full = True
    for counter in range(11):
        ledger.first_use(make_recipe(counter), step=1, time_s=1)
    assert ledger.flush() is not None
    assert ledger.counters().lost == 4
    assert [line for line in said if "lost 2 groups (4 in all)" in line]
    file.full = False
    assert ledger.flush() is None, "what was lost before is no reason to hold a checkpoint back"
    ledger.close()
    firsts = [fact for fact in facts_in(tmp_path) if isinstance(fact, FirstUse)]
    assert [fact.entry for fact in firsts] == [0, 1, 2, 3, 4, 5, 10], "a gap says what is missing"
    assert [fact.recipe.counter for fact in firsts] == [fact.entry for fact in firsts]
    assert ledger.counters().groups == 7


def test_what_cannot_be_written_at_all_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    ledger = open_writer(tmp_path, said=said)
    half_a_character = msgspec.structs.replace(make_recipe(), caption="\ud800")
    ledger.first_use(half_a_character, step=1, time_s=1)
    assert ledger.flush() is None, "trying again would not help"
    ledger.first_use(make_recipe(1), step=2, time_s=1)
    assert ledger.close() is None
    assert [fact.entry for fact in facts_in(tmp_path)] == [1]
    assert (ledger.counters().lost, ledger.counters().groups_on_disk) == (1, 1)
    assert len(said) == 1
    assert "lost 1 groups" in said[0]


def test_a_disk_that_hangs_does_not_hold_up_the_entering(tmp_path: Path) -> None:
    goes_on = threading.Event()

    class HungDisk(DurableFile):
        def _write(self, block: bytes) -> None:
            if self.num_bytes:
                assert goes_on.wait(60)
            super()._write(block)

    ledger = LedgerWriter(HungDisk(tmp_path / "a.ledger"), make_header(), say=print)
    for counter in range(3 * writer.BLOCK_GROUPS):
        ledger.first_use(make_recipe(counter), step=1, time_s=1)
    assert ledger.counters().num_bytes < 1000, "only the header is safe yet"
    assert ledger.counters().groups_on_disk == 0
    goes_on.set()
    assert ledger.close() is None
    assert ledger.counters().groups == 3 * writer.BLOCK_GROUPS


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.integers(0, 2**63 - 1)), max_size=40))
def test_seed_keys_are_a_set(keys: list[tuple[int, int, int, int]]) -> None:
    known, seen = SeedKeys(), set[tuple[int, int, int, int]]()
    for key in keys:
        assert (key in known) == (key in seen)
        assert known.add(key) == (key not in seen)
        seen.add(key)
