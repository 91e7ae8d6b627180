"""What `--out` holds: records merged, tables, a plot, and no other file written over."""

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from evaluation.errors import EvaluationError
from evaluation.report.folder import ReportFolder
from evaluation.report.records import Record, record_of
from evaluation.report.table import MOST_COLUMNS, markdown, tables_of
from evaluation.results import Result


def record(
    backbone: str = "demo", task: str = "knn", data: str = "check_set", **metrics: float
) -> Record:
    return record_of(Result(backbone, task, data, metrics or {"top1": 0.5}), {"command": "x"})


def stored(folder: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return loaded


def test_later_calls_add_and_replace(tmp_path: Path) -> None:
    ReportFolder(tmp_path).add([record("a", top1=0.1), record("b", top1=0.2)])
    later = ReportFolder(tmp_path)
    later.add([record("a", top1=0.7), record("a", data="other", top1=0.3)])
    later.add([record("a", task="linear", top1=0.9)])
    found = {
        (one["backbone"], one["task"], one["data"]): one["metrics"]["top1"]
        for one in stored(tmp_path)
    }
    assert found == {
        ("a", "knn", "check_set"): 0.7,
        ("b", "knn", "check_set"): 0.2,
        ("a", "knn", "other"): 0.3,
        ("a", "linear", "check_set"): 0.9,
    }
    text = (tmp_path / "results.md").read_text()
    assert "## knn" in text
    assert "## linear" in text


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    ReportFolder(tmp_path).add([record(top1=math.nan)])
    assert stored(tmp_path)[0]["metrics"] == {"top1": None}
    assert "–" in (tmp_path / "results.md").read_text()


def test_the_table_has_a_row_a_backbone_and_marks_the_best() -> None:
    records = [
        record("a", top1=0.123, num_images=1200.0),
        record("b|c", top1=0.4567),
        record("a", data="other", top1=0.3),
    ]
    lines = markdown(records).splitlines()
    assert lines[0] == "## knn"
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines[2:6]]
    assert cells[0] == [
        "| backbone",
        "check_set: top1 %",
        "check_set: num_images",
        "other: top1 % |",
    ]
    assert cells[2] == ["| a", "12.3", "1 200", "30.0 |"]
    assert cells[3] == [r"| b\|c", "**45.7**", "–", "– |"]
    assert len({len(line) for line in lines[2:6]}) == 1, "columns stand below each other"
    assert "**" not in markdown(records, mark_best=False)


def test_a_wide_table_has_the_first_metric_of_each_data_set() -> None:
    records = [
        record(data=f"set {index}", mean_per_class=0.1, top1=0.2)
        for index in range(MOST_COLUMNS // 2 + 1)
    ]
    (table,) = tables_of(records)
    assert {metric for _, metric in table.columns} == {"mean_per_class"}
    assert len(table.columns) == MOST_COLUMNS // 2 + 1
    (narrow,) = tables_of(records[:2])
    assert len(narrow.columns) == 4


def test_the_plot_grows_with_the_results(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path)
    folder.add([record("a", top1=0.5)])
    folder.draw()
    small = imread(tmp_path / "results.png")
    assert small.std() > 0.01, "something is drawn"
    folder.add([record(name, task, top1=0.5) for name in "abc" for task in ("knn", "linear")])
    folder.draw()
    assert imread(tmp_path / "results.png").shape[0] > small.shape[0]


def test_no_plot_without_anything_to_draw(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path)
    folder.draw()
    folder.add([record(took_s=3.0)])
    folder.draw()
    assert not (tmp_path / "results.png").exists()


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '[{"backbone": "a"}]', "[3]"])
def test_a_file_of_somebody_else_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"results\.json does not hold results"):
        ReportFolder(tmp_path)
    assert (tmp_path / "results.json").read_text() == text


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="--out="):
        ReportFolder(tmp_path / "file" / "below")


def add_ten(root: Path, name: str) -> None:
    folder = ReportFolder(root)
    for index in range(10):
        folder.add([record(name, data=str(index))])


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_ten, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(stored(tmp_path)) == 20
