"""Results of `evaluate` as a model card shows them: one row a backbone, task and data set.

Their files are lists of objects with `backbone`, `task`, `data`, `metrics` and `details`
(`evaluation.results.Result`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from huggingface_hub import EvalResult

from evaluation.errors import EvaluationError
from evaluation.results import Result

_TASK_TYPE = "image-classification"
_SEGMENTATION = "image-segmentation"
_HUBS = frozenset({"hf-hub", "hf"})


def read_results(files: Sequence[Path]) -> list[Result]:
    """All results of some files, in their order.

    Raises:
        EvaluationError: a file cannot be read, or holds something else.
    """
    return [result for file in files for result in _read(file)]


def markdown_table(results: Sequence[Result], own: Sequence[Result]) -> str:
    """Rows as they came; those of the exported backbone in bold, metrics with three digits."""
    rows = ["| backbone | task | data | metrics |", "| --- | --- | --- | --- |"]
    for result in results:
        name = _cell(result.backbone)
        metrics = ", ".join(f"{key} {_number(value)}" for key, value in result.metrics.items())
        cells = (f"**{name}**" if result in own else name, result.task, _cell(result.data), metrics)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def metadata(results: Sequence[Result]) -> list[EvalResult]:
    """The same as entries of the card's `model-index`, for the hub's own tables."""
    return [
        EvalResult(
            task_type=_SEGMENTATION if result.task == "segmentation" else _TASK_TYPE,
            task_name=result.task,
            dataset_type=_slug(result.data),
            dataset_name=_cell(result.data),
            metric_type=_slug(metric),
            metric_name=metric,
            metric_value=round(float(value), 6),
        )
        for result in results
        for metric, value in result.metrics.items()
    ]


def short_name(name: str) -> str:
    """Without the folders before it: those are of one machine, and no reader's business."""
    prefix, colon, rest = name.partition(":")
    if colon and "/" not in prefix and "/" in rest:
        on_hub = prefix in _HUBS and not rest.startswith(("/", ".", "~"))
        return f"{prefix}:{rest if on_hub else short_name(rest)}"
    return name.rstrip("/").rpartition("/")[2]


def _read(file: Path) -> list[Result]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [_result(one) for one in msgspec.convert(content, list[dict[str, Any]])]
    except OSError as error:
        raise EvaluationError(f"--results={file} cannot be read ({error.strerror}).") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise EvaluationError(
            f"--results={file} holds no results ({error}); name a results.json that `evaluate` "
            "wrote."
        ) from None


def _result(content: dict[str, Any]) -> Result:
    # What evaluate adds beside (versions, command) is passed over.
    return msgspec.convert(content, Result)


def _number(value: float) -> str:
    return f"{value:.3f}"


def _cell(text: str) -> str:
    return short_name(text).replace("|", "\\|").replace("\n", " ")


def _slug(text: str) -> str:
    kept = (letter if letter.isalnum() else "-" for letter in _cell(text).lower())
    return "-".join(part for part in "".join(kept).split("-") if part)
