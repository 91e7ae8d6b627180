"""Reading a ledger: the run's order, what a resume has thrown away, repeated seeds, the command."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from online_synclr import __main__ as main_module
from online_synclr.ledger.facts import Header, LedgerError, UseCount, file_name
from online_synclr.ledger.reading import Entry, kept_entries, read_ledger, use_counts
from online_synclr.ledger.totals import LedgerTotals, count_ledger
from online_synclr.stream.group import Recipe
from tests.ledger_files import make_header, open_writer, recipes, write_attempt
from tests.stream_helpers import with_origin
from tests.test_monitor_summary import SUMMARY


def entries(folder: Path) -> list[Entry]:
    return list(kept_entries(read_ledger(folder).attempts))


def names(folder: Path) -> list[tuple[int, int]]:
    return [(e.fact.recipe.incarnation, e.fact.recipe.counter) for e in entries(folder)]


def totals(folder: Path) -> LedgerTotals:
    return count_ledger(read_ledger(folder))


def pairs(given: Sequence[Recipe]) -> list[list[Recipe]]:
    return [list(given[start : start + 2]) for start in range(0, len(given), 2)]


def test_the_order_is_by_attempt_step_trainer_and_position(tmp_path: Path) -> None:
    for trainer in (1, 0):
        given = recipes(10 * trainer, 10 * trainer + 4, stream=trainer)
        write_attempt(tmp_path, make_header(trainer=trainer), pairs(given))
    write_attempt(tmp_path, make_header(2, resumed_step=2), [recipes(0, 1, incarnation=2)])
    expected = [(1, 0), (1, 1), (1, 10), (1, 11), (1, 2), (1, 3), (1, 12), (1, 13), (2, 0)]
    assert names(tmp_path) == expected
    assert [entry.number for entry in entries(tmp_path)] == list(range(9))
    assert names(tmp_path / "ledger") == expected, "the ledger's own folder will do"


def test_what_a_resume_threw_away_does_not_count(tmp_path: Path) -> None:
    """Attempt 1 dies after step 5; 2 goes on from 3 and dies; 3 finds only the checkpoint of 2."""
    write_attempt(tmp_path, make_header(1), [[r] for r in recipes(0, 5)])
    second = recipes(0, 2, incarnation=2)
    write_attempt(tmp_path, make_header(2, resumed_step=3), [[r] for r in second])
    third = recipes(0, 2, incarnation=3)
    write_attempt(tmp_path, make_header(3, resumed_step=2), [[r] for r in third])
    assert names(tmp_path) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    counted = totals(tmp_path)
    assert (counted.groups, counted.uses, counted.thrown_away) == (4, 4, 5)
    assert [attempt.thrown_away for attempt in counted.attempts] == [3, 2, 0]


def test_uses_are_those_of_the_training_that_was_kept(tmp_path: Path) -> None:
    ledger = open_writer(tmp_path)
    first, second, third = (
        ledger.first_use(recipe, step=step, time_s=0)
        for step, recipe in enumerate(recipes(0, 3), 1)
    )
    ledger.count(first, 3, step=3, left=True)
    ledger.count(second, 1, step=4, left=False)
    ledger.count(second, 4, step=7, left=True)
    assert ledger.flush() is None
    counted = totals(tmp_path)
    assert (counted.uses, counted.open_uses) == (3 + 4, 1)
    ledger.close()
    write_attempt(tmp_path, make_header(2, resumed_step=4), [])
    counted = totals(tmp_path)
    assert (counted.uses, counted.open_uses) == (3 + 1, 1)
    uses = use_counts(entries(tmp_path))
    assert uses == {0: UseCount(first, 3, 3, True), 1: UseCount(second, 1, 4, False)}
    assert third not in {count.entry for count in uses.values()}


def test_seeds_used_twice_are_found_in_whatever_file(tmp_path: Path) -> None:
    write_attempt(tmp_path, make_header(1), [recipes(0, 4)])
    write_attempt(tmp_path, make_header(1, trainer=1), [recipes(3, 6)])
    again = [msgspec.structs.replace(recipes(0, 1)[0], caption="another")]
    write_attempt(tmp_path, make_header(2, resumed_step=0), [again])
    counted = totals(tmp_path)
    assert counted.duplicates == 2
    assert counted.examples == [(7, 1, 0, 3), (7, 1, 0, 0)]
    assert counted.thrown_away == 7, "thrown away, and still its seeds may not come again"


def test_a_group_replayed_twice_is_told_from_a_repeated_seed(tmp_path: Path) -> None:
    replayed = [with_origin(recipe, counter=1) for recipe in recipes(0, 2)]
    write_attempt(tmp_path, make_header(1), [replayed])
    counted = totals(tmp_path)
    assert (counted.duplicates, counted.repeated_noise) == (0, 1)


def test_files_of_two_runs_are_not_one_ledger(tmp_path: Path) -> None:
    write_attempt(tmp_path, make_header(1), [])
    other = msgspec.structs.replace(make_header(2), run_id="run-2")
    write_attempt(tmp_path, other, [])
    with pytest.raises(LedgerError, match="different runs"):
        read_ledger(tmp_path)
    with pytest.raises(LedgerError, match="no ledger in"):
        read_ledger(tmp_path / "nowhere")


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    write_attempt(tmp_path, msgspec.structs.replace(make_header(), format=9), [])
    with pytest.raises(LedgerError, match=r"format 9, this version reads 1"):
        read_ledger(tmp_path)


# --- the command ---------------------------------------------------------------------------------


def run_command(*arguments: str) -> int:
    return main_module.main(["ledger", *arguments])


def test_the_command_counts_and_a_repeated_seed_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attempt(tmp_path, make_header(1), pairs(recipes(0, 6)), uses=2)
    assert run_command(str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "trained on   6 groups, 12 uses (at most 2 of one), 6 captions" in output
    assert "seed keys    0 occur twice" in output
    write_attempt(tmp_path, make_header(1, trainer=1), [recipes(5, 7)])
    assert run_command(str(tmp_path)) == 1
    assert "WRONG: 1 groups have the seeds of another one" in capsys.readouterr().out
    assert run_command(str(tmp_path), "--json") == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["groups"], figures["duplicates"]) == (8, 1)
    assert len(figures["broken"]) == 1


def write_summary(folder: Path, **changes: int) -> None:
    counts = {"groups_trained": 6, "group_uses": 12, "incarnation": 1} | changes
    replace(SUMMARY, **counts).write(folder / "summary.json")  # type: ignore[arg-type]
    # A copy of the folder keeps no times that could be relied on.
    os.utime(folder / "summary.json", ns=(0, 0))


def test_the_command_compares_with_the_runs_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attempt(tmp_path, make_header(1), pairs(recipes(0, 6)), uses=2)
    write_summary(tmp_path)
    assert run_command(str(tmp_path)) == 0
    assert "NOT COMPARED" not in capsys.readouterr().out
    write_summary(tmp_path, groups_trained=7)
    assert run_command(str(tmp_path)) == 1
    assert "summary.json counts 7 groups trained, the ledger has 6" in capsys.readouterr().out
    write_summary(tmp_path, group_uses=13)
    assert run_command(str(tmp_path)) == 1
    assert "summary.json counts 13 uses, the ledger 12" in capsys.readouterr().out
    write_attempt(tmp_path, make_header(2, resumed_step=3), [])
    os.utime(tmp_path / "summary.json", None)
    assert run_command(str(tmp_path)) == 0, "a summary from before the last attempt says nothing"
    assert "NOT COMPARED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"incarnation": 0}, "does not say which attempt wrote it"),
        ({"incarnation": 2}, "is of attempt 2, of which the ledger has no file"),
        ({"groups_trained": "six"}, "is damaged or of another version"),
    ],
)
def test_a_summary_that_cannot_be_compared_is_one_sentence(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attempt(tmp_path, make_header(1), pairs(recipes(0, 6)), uses=2)
    write_summary(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert run_command(str(tmp_path)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "NOT COMPARED" in line]
    assert words in line
    assert run_command(str(tmp_path), "--json") == 0
    assert words in json.loads(capsys.readouterr().out)["not_compared"]


def of_three(incarnation: int, trainer: int, resumed_step: int = 0) -> Header:
    header = make_header(incarnation, trainer=trainer, resumed_step=resumed_step)
    return msgspec.structs.replace(header, num_trainers=3)


def test_missing_files_are_named_and_no_wrong_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for trainer in range(3):
        given = recipes(2 * trainer, 2 * trainer + 2)
        write_attempt(tmp_path, of_three(1, trainer), [given], uses=2)
    write_summary(tmp_path)
    assert run_command(str(tmp_path)) == 0
    assert "MISSING" not in capsys.readouterr().out
    (tmp_path / "ledger" / file_name(1, 0)).unlink()
    (tmp_path / "ledger" / file_name(1, 2)).write_bytes(b"OS")
    (attempt,) = read_ledger(tmp_path).attempts
    assert attempt.missing_files == [file_name(1, 0), file_name(1, 2)]
    assert run_command(str(tmp_path)) == 1
    output = capsys.readouterr().out
    assert "MISSING: 000001-t0.ledger" in output
    assert "MISSING: 000001-t2.ledger" in output
    assert "WRONG" not in output
    assert run_command(str(tmp_path), "--json") == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["missing_files"], figures["broken"]) == (attempt.missing_files, [])


def test_an_attempt_that_died_before_its_first_step_misses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for trainer in range(3):
        write_attempt(tmp_path, of_three(1, trainer), [recipes(2 * trainer, 2 * trainer + 2)])
    write_attempt(tmp_path, of_three(2, 0, resumed_step=1), [])
    assert run_command(str(tmp_path)) == 0
    assert "MISSING" not in capsys.readouterr().out


def test_settings_of_another_version_are_one_sentence() -> None:
    header = msgspec.structs.replace(make_header(3), images='{"of_the_future": 1}')
    with pytest.raises(LedgerError, match=r"attempt 3 .*\(images\.of_the_future: .*") as caught:
        header.images_settings()
    assert "\n" not in str(caught.value)


def test_the_command_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attempt(tmp_path, make_header(1), [recipes(0, 2)])
    path = tmp_path / "ledger" / file_name(1, 0)
    with path.open("ab") as file:
        file.write(b"torn")
    (tmp_path / "ledger" / file_name(2, 0)).write_bytes(b"OS")
    assert run_command(str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "000001-t0.ledger: the end is not a whole block, 4 bytes" in output
    assert "000002-t0.ledger: its first block is not whole" in output


def test_no_ledger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1
