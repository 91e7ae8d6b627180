"""A plan for people and for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from online_synclr.monitor.formats import UNKNOWN, num_bytes, number, percent
from online_synclr.planning.model import Prediction, Workload, best
from online_synclr.planning.rates import Rates
from online_synclr.topology import Split

_HEAD = (
    "split",
    "reuse",
    "steps/s",
    "trainers wait",
    "generators wait",
    "images/day",
    "captions/day",
    "days",
    "balanced at reuse",
    "trainer",
    "generator",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that `plan` shows. `command`: to run a split; `refused`: why others cannot run."""

    workload: Workload
    rates: Rates
    nodes: int
    ranks: int
    predictions: Sequence[Prediction]
    refused: dict[Split, str]
    command: str

    @property
    def best(self) -> Prediction | None:
        """The split to take."""
        return best(self.predictions)

    def text(self) -> str:
        """For people."""
        nodes = f"{self.nodes} nodes" if self.nodes > 1 else "one node"
        lines = [
            f"{nodes} of {self.ranks} ranks: {self.workload.batch_groups} groups a step, "
            f"{self.workload.images_used} of {self.workload.images_rendered} images of each, "
            f"{self.workload.steps} steps, reuse {self.workload.reuse:g}"
            + (f" to {self.workload.max_reuse} (adaptive)" if self.workload.adaptive else ""),
            f"rates: {self.rates.source}",
            *_rate_lines(self.rates),
            "",
            *aligned([_HEAD, *(self._row(one) for one in self.predictions)]),
            "",
            *self._closing(),
            *(f"note: {note}." for note in self.rates.notes),
        ]
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """For programs: plain values; what is not known or not finite is null."""
        chosen = self.best
        values = {
            "workload": asdict(self.workload),
            "rates": asdict(self.rates),
            "nodes": self.nodes,
            "ranks": self.ranks,
            "splits": [{**asdict(one), "name": one.name} for one in self.predictions],
            "refused": {
                f"{split.generators}+{split.trainers}": why for split, why in self.refused.items()
            },
            "best": chosen.name if chosen else None,
            "command": self.command if chosen else None,
        }
        finite: dict[str, Any] = _finite(values)
        return finite

    def _row(self, one: Prediction) -> tuple[str, ...]:
        memory = (
            _memory(one.trainer_rss_bytes, one.trainer_gpu_bytes),
            _memory(one.generator_rss_bytes, one.generator_gpu_bytes),
        )
        mark = " <- best" if one is self.best else ""
        if one.balance is None:
            return (one.name, "does not fit into memory", *[""] * 7, *memory)
        found = one.balance
        over = " (over max)" if found.balanced_reuse > self.workload.max_reuse else ""
        return (
            one.name + mark,
            f"{found.reuse:.3g}",
            number(found.steps_per_s),
            percent(found.trainer_wait),
            percent(found.generator_wait),
            number(one.images_a_day),
            number(one.captions_a_day),
            f"{one.days:.3g}",
            f"{found.balanced_reuse:.3g}{over}",
            *memory,
        )

    def _closing(self) -> list[str]:
        chosen = self.best
        lines = [
            f"left out {split.generators}+{split.trainers}: {why}"
            for split, why in self.refused.items()
        ]
        if chosen is None:
            return [*lines, "no split fits into memory."]
        return [
            *lines,
            f"best: {chosen.name} (generators + trainers"
            + (" on each node)" if self.nodes > 1 else ")"),
            f"  {self.command}",
        ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns, the first column to the left."""
    # A cell that says why a row has no figures may run over its neighbours.
    whole = [row for row in rows if row[2]]
    widths = [max(len(row[index]) for row in whole) for index in range(len(whole[0]))]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if not row[2]:
        return f"{row[0]:<{widths[0]}}  {row[1]}"
    first, *others = (
        f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((first, *others)).rstrip()


def _rate_lines(rates: Rates) -> list[str]:
    generator = rates.generator
    line = f"  a generator  {number(generator.groups_per_s)} groups/s"
    if generator.render_groups_per_s is not None and generator.captions_per_s is not None:
        writer = "the node's LLM" if generator.shared_llm else "its LLM"
        line += (
            f": its pictures alone {number(generator.render_groups_per_s)} groups/s, {writer} "
            f"{number(generator.captions_per_s)} captions/s"
        )
        if generator.llm_is_slower and not generator.shared_llm:
            line += "; the LLM is the slower part"
    steps = [
        f"{number(point.local_images / point.step_s)} images/s at {point.local_images} images "
        f"({point.step_s:.3g} s a step"
        + (f", {point.low_s:.3g} to {point.high_s:.3g}" if point.high_s else "")
        + (f"; {point.num_trainers} together" if point.num_trainers > 1 else "")
        + ")"
        for point in rates.trainer.points
    ]
    return [line, *(f"  a trainer    {step}" for step in steps)]


def _memory(rss_bytes: float, gpu_bytes: float) -> str:
    """GPU memory where there is any, else resident memory."""
    if gpu_bytes:
        return f"{num_bytes(gpu_bytes)} GPU"
    return num_bytes(rss_bytes) if rss_bytes else UNKNOWN


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
