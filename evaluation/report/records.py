"""Results as they are kept in `results.json`: a list of plain objects.

    {"backbone", "task", "data", "metrics": {name: number or null}, "details",
     "origin", "identity", "image_px", "crop_pct", "precision", "seed", "versions", "device",
     "num_ranks", "took_s", "command", "date"}

Backbone, task and data name a record; a later one of the same name takes its place.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.results import Result

Record = dict[str, Any]
_NEEDED = {"backbone": str, "task": str, "data": str, "metrics": dict}
_UNITS = ("_s", "_bytes", "_px", "_images")


def record_of(result: Result, facts: Mapping[str, Any]) -> Record:
    """A record of one result; `facts`: where it comes from. A number that is none becomes null."""
    metrics = {name: finite(value) for name, value in result.metrics.items()}
    return {
        "backbone": result.backbone,
        "task": result.task,
        "data": result.data,
        "metrics": metrics,
        "details": result.details,
        **facts,
    }


def finite(value: float) -> float | None:
    """JSON has no number for what is not finite."""
    return float(value) if math.isfinite(value) else None


def is_share(metric: str) -> bool:
    """Whether a metric's name leaves it from 0 to 1, shown in per cent."""
    return not metric.startswith("num_") and not metric.endswith(_UNITS)


def merged(old: Sequence[Record], new: Iterable[Record]) -> list[Record]:
    """All records, in the order in which their names first came up."""
    by_name = {_name(record): record for record in old}
    for record in new:
        by_name[_name(record)] = record
    return list(by_name.values())


def read_records(path: Path) -> list[Record]:
    """The records of a file; none where there is no file.

    Raises:
        EvaluationError: it is not a file of results, or cannot be read.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError:
        records = None
    if not isinstance(records, list) or not all(map(_is_record, records)):
        raise EvaluationError(
            f"{path} does not hold results of evaluate; name another folder, or move the file away."
        )
    return records


def to_json(records: Sequence[Record]) -> str:
    """The text of the file."""
    return json.dumps(records, indent=1, allow_nan=False) + "\n"


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind) for key, kind in _NEEDED.items()
    )


def _name(record: Record) -> tuple[str, str, str]:
    return record["backbone"], record["task"], record["data"]
