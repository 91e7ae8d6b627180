"""metrics.jsonl: one JSON object a line and logged step."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from online_synclr.monitor.append_file import AppendFile

_TAIL_BYTES = 2**20
"""Holds the last lines of a file, however many generators have curves of their own."""


class JsonlLog:
    """Appends `{"step": ..., "time_s": ..., <metric>: <value>, ...}`, each line written at once.

    `time_s` is the wall clock (`time.time()`), as in TensorBoard. A value that is not finite is
    written as null: JSON knows no NaN. A log continued at `resume_step` first loses the lines of
    later steps, which the earlier attempt wrote and which will be written again; at step 0
    nothing is kept.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        _drop_later_lines(path, resume_step)
        self._file = AppendFile(path)

    def append(self, step: int, time_s: float, scalars: Mapping[str, float]) -> None:
        """Write one line.

        Raises:
            OSError: the line could not be written; the file is as it was before.
        """
        values = {name: _rounded(value) for name, value in scalars.items()}
        line = json.dumps({"step": step, "time_s": round(time_s, 3), **values}, allow_nan=False)
        self._file.append(line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a metrics file, in the order written."""
    with path.open("rb") as handle:
        for line in handle:
            record = _parse(line)
            if record is not None:
                yield record


def last_step(path: Path) -> int:
    """The step of the last complete line; 0 without one."""
    record = last_line(path)
    return 0 if record is None else int(record["step"])


def last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line, found from the file's end; None without one."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = handle.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    records = (_parse(line) for line in reversed(lines))
    return next((record for record in records if record is not None), None)


def _rounded(value: float) -> float | None:
    """Nine figures, enough for TensorBoard's 32 bits; counts stay exact."""
    if not math.isfinite(value):
        return None
    return value if value.is_integer() else float(f"{value:.9g}")


def _drop_later_lines(path: Path, resume_step: int) -> None:
    if not path.exists():
        return
    keep_bytes = _num_bytes_to_keep(path, resume_step) if resume_step else 0
    with path.open("r+b") as handle:
        handle.truncate(keep_bytes)


def _num_bytes_to_keep(path: Path, resume_step: int) -> int:
    keep_bytes = 0
    with path.open("rb") as handle:
        for line in handle:
            record = _parse(line)
            if record is None or record["step"] > resume_step:
                break
            keep_bytes += len(line)
    return keep_bytes


def _parse(line: bytes) -> dict[str, Any] | None:
    """The line's object, or None for a line a crash tore or nobody here wrote."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    is_ours = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if is_ours else None
