"""Results of `evaluate` as a model card shows them: one row a backbone, task and data set.

Their files are lists of objects with `backbone`, `task`, `data`, `metrics` and `details`
(`evaluation.results.Result`), and with the `identity` of the backbone beside: names mean another
checkpoint as soon as a run goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from huggingface_hub import EvalResult

from evaluation.errors import EvaluationError
from evaluation.results import Result

_TASK_TYPE = "image-classification"
_SEGMENTATION = "image-segmentation"
_HUBS = frozenset({"hf-hub", "hf"})


@dataclass(frozen=True)
class Given:
    """A result, and the identity of the backbone that it is of; none: its file does not say."""

    result: Result
    identity: str | None = None


def read_results(files: Sequence[Path]) -> list[Given]:
    """All results of some files, in their order.

    Raises:
        EvaluationError: a file cannot be read, or holds something else.
    """
    return [result for file in files for result in _read(file)]


def markdown_table(results: Sequence[Given], identity: str) -> str:
    """Rows as they came; those of the backbone of that identity in bold."""
    rows = ["| backbone | task | data | metrics |", "| --- | --- | --- | --- |"]
    for given in results:
        result, name = given.result, _cell(given.result.backbone)
        metrics = ", ".join(f"{key} {_number(value)}" for key, value in result.metrics.items())
        shown = f"**{name}**" if given.identity == identity else name
        cells = (shown, result.task, _cell(result.data), metrics)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def metadata(results: Sequence[Given]) -> list[EvalResult]:
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
        for result in (given.result for given in results)
        for metric, value in result.metrics.items()
    ]


def short_name(name: str) -> str:
    """Without the folders before it: those are of one machine, and no reader's business."""
    prefix, colon, rest = name.partition(":")
    if colon and "/" not in prefix and "/" in rest:
        on_hub = prefix in _HUBS and not rest.startswith(("/", ".", "~"))
        return f"{prefix}:{rest if on_hub else short_name(rest)}"
    return name.rstrip("/").rpartition("/")[2]


def _read(file: Path) -> list[Given]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [_given(one) for one in msgspec.convert(content, list[dict[str, Any]])]
    except OSError as error:
        raise EvaluationError(f"--results={file} cannot be read ({error.strerror}).") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise EvaluationError(
            f"--results={file} holds no results ({error}); name a results.json that `evaluate` "
            "wrote."
        ) from None


def _given(content: dict[str, Any]) -> Given:
    # What else stands beside (versions, command) is passed over.
    return Given(
        result=msgspec.convert(content, Result),
        identity=msgspec.convert(content.get("identity"), str | None),
    )


def _number(value: float) -> str:
    return f"{value:.3f}"


def _cell(text: str) -> str:
    return short_name(text).replace("|", "\\|").replace("\n", " ")


def _slug(text: str) -> str:
    kept = (letter if letter.isalnum() else "-" for letter in _cell(text).lower())
    return "-".join(part for part in "".join(kept).split("-") if part)
