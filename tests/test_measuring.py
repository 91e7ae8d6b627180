"""Benchmarks take their cases in turn and their ratios repeat by repeat."""

import importlib
from pathlib import Path

import pytest

from benchmarks.measuring import describe, interleave, ratio, table
from online_synclr.paths import PROJECT_DIR

BENCHMARKS = PROJECT_DIR / "benchmarks"


def test_cases_are_measured_in_turn_in_an_order_that_moves_on():
    order: list[str] = []

    def case(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = interleave({name: lambda name=name: case(name) for name in "abc"}, repeats=3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert values == {"a": [4.0, 9.0, 11.0], "b": [5.0, 7.0, 12.0], "c": [6.0, 8.0, 10.0]}


def test_a_ratio_is_taken_within_each_repeat():
    # The machine became ten times slower after the first repeat: the medians' ratio would not tell.
    found = ratio([20.0, 2.0, 2.2], [10.0, 1.0, 1.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.2)
    assert f"{found:.1f}" == "2.0 (2.0 to 2.2)"


def test_the_machine_line_names_what_a_reader_needs():
    line = describe("numpy")
    assert "commit" in line
    assert "numpy 2" in line
    assert "core" in line
    assert "load" in line


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path: Path):
    """They are run by hand: a name that has moved would be found by nobody else."""
    parts = path.relative_to(PROJECT_DIR).with_suffix("").parts
    importlib.import_module(".".join(parts).removesuffix(".__main__"))
