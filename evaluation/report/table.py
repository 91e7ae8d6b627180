"""Results as Markdown that also reads well on a console: a table a task, a row a backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.report.records import Record, is_share
from online_synclr.monitor.formats import UNKNOWN, number

MOST_COLUMNS = 12
"""A table with more has only the first metric of each data set; the JSON file has all."""


@dataclass(frozen=True)
class TaskTable:
    """One task: backbones, columns of (data, metric), and the value in each place."""

    task: str
    backbones: Sequence[str]
    columns: Sequence[tuple[str, str]]
    values: dict[tuple[str, str, str], float | None]

    def value(self, backbone: str, column: tuple[str, str]) -> float | None:
        """None where it was not measured, or is not finite."""
        return self.values.get((backbone, *column))

    def best(self, column: tuple[str, str]) -> float | None:
        """The highest share of a column; None where all are equal, and of what is no share."""
        values = [self.value(backbone, column) for backbone in self.backbones]
        known = [value for value in values if value is not None]
        return max(known) if len(set(known)) > 1 and is_share(column[1]) else None


def tables_of(records: Sequence[Record], *, first_metric_only: bool = False) -> list[TaskTable]:
    """A table for each task, in the order of the records."""
    tasks = list(dict.fromkeys(record["task"] for record in records))
    return [
        _table(task, [record for record in records if record["task"] == task], first_metric_only)
        for task in tasks
    ]


def markdown(records: Sequence[Record], *, mark_best: bool = True) -> str:
    """All tables. The best of each column is bold where there are several."""
    return "\n".join(
        f"## {table.task}\n\n{_aligned(_rows(table, mark_best))}\n" for table in tables_of(records)
    )


def shown(value: float | None, metric: str) -> str:
    """Shares in per cent, to a tenth."""
    if value is None:
        return UNKNOWN
    return f"{100 * value:.1f}" if is_share(metric) else number(value)


def column_name(column: tuple[str, str]) -> str:
    """As its header has it."""
    data, metric = column
    return f"{data}: {metric}{' %' if is_share(metric) else ''}"


def _table(task: str, records: Sequence[Record], first_metric_only: bool) -> TaskTable:
    columns = list(
        dict.fromkeys((record["data"], name) for record in records for name in record["metrics"])
    )
    # Columns of one data set stand together, also where a later backbone brought another metric.
    order = list(dict.fromkeys(data for data, _ in columns))
    columns.sort(key=lambda column: order.index(column[0]))
    if first_metric_only or len(columns) > MOST_COLUMNS:
        first = dict(reversed(columns))
        columns = [column for column in columns if first[column[0]] == column[1]]
    return TaskTable(
        task=task,
        backbones=list(dict.fromkeys(record["backbone"] for record in records)),
        columns=columns,
        values={
            (record["backbone"], record["data"], name): value
            for record in records
            for name, value in record["metrics"].items()
        },
    )


def _rows(table: TaskTable, mark_best: bool) -> list[list[str]]:
    rows = [["backbone", *map(column_name, table.columns)]]
    for backbone in table.backbones:
        cells = []
        for column in table.columns:
            value = table.value(backbone, column)
            text = shown(value, column[1])
            is_best = mark_best and value is not None and value == table.best(column)
            cells.append(f"**{text}**" if is_best else text)
        rows.append([backbone, *cells])
    # A bar would end the cell.
    return [[cell.replace("|", "\\|") for cell in row] for row in rows]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], ruler, *rows[1:]):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
