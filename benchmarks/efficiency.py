"""What a run makes of two sides of known rates: nothing is lost between them.

    python -m benchmarks.efficiency [--ranks 1+1 2+1 3+1 4+2 6+2] [--seconds 24]

SYNTHETIC ENGINES: generators (G of G+T ranks) render coloured blobs at a set rate, trainers wait
for a set time in each step (`benchmarks.paced_trainer`). All else is a run under torchrun. For each
split of ranks there are two runs: generators render 0.7 of what trainers can use, and 1.05 of it.
Achieved groups/s are those that came in, over the smaller of the two sides' rates; the spread is
over nine stretches of one run, after the pool has settled. The step's overhead is what a step takes
beyond its set time while no trainer waits for groups; of it, the loop's own CPU is what is left on
a machine that does nothing else.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import REPEATS, describe, spread, table
from benchmarks.paced_trainer import CPU_FILE, STEP_S
from benchmarks.ranks import run_ranks
from benchmarks.tiny import ENGINES, TRAINING
from online_synclr.monitor import metrics
from online_synclr.monitor.jsonl import read_jsonl

STEP_TIME_S: Final = 0.2
BATCH_GROUPS: Final = 16
REUSE: Final = 2.0
LOG_EVERY_STEPS: Final = 5
IMAGES: Final = 4
WARM_UP_S: Final = 12.0
"""Until the limiter's slack and what the generators held at the start are used up."""
START_S: Final = 300.0
RANKS: Final = ("1+1", "2+1", "3+1", "4+2", "6+2")
SHARES: Final = {"generation": 0.7, "training": 1.05}
"""The sum of the generators' rates over what the trainers can use, by the side that limits."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """One way to share the ranks, and which side is the slower one."""

    generators: int
    trainers: int
    limited_by: str

    @property
    def usable_per_s(self) -> float:
        """Groups a second that the trainers can use at the reuse set."""
        return BATCH_GROUPS / STEP_TIME_S / REUSE

    @property
    def rendered_per_s(self) -> float:
        """Groups a second that the generators render together when nothing holds them."""
        return SHARES[self.limited_by] * self.usable_per_s

    @property
    def limit_per_s(self) -> float:
        """Groups a second that no run can exceed."""
        return min(self.rendered_per_s, self.usable_per_s)

    def overrides(self, seconds: float) -> list[str]:
        """Settings of a run of about `seconds` after its first step."""
        steps = (seconds + WARM_UP_S) * self.limit_per_s * REUSE / BATCH_GROUPS
        rate = self.rendered_per_s * IMAGES / self.generators
        return [
            *ENGINES,
            *TRAINING,
            f"topology.generators={self.generators}",
            f"topology.trainers={self.trainers}",
            f"trainer.batch_groups={BATCH_GROUPS}",
            f"trainer.steps={int(steps)}",
            "trainer.checkpoint.every_steps=0",
            f"pool.samples_per_insert={REUSE}",
            f"images.per_caption={IMAGES}",
            f"images.rate_images_per_s={rate}",
            "images.batch_groups=2",
            f"monitor.log_every_steps={LOG_EVERY_STEPS}",
        ]


@dataclass(frozen=True)
class Achieved:
    """What a run did, stretch by stretch. `waiting`: share of the trainers' time.

    `cpu_s`: of trainer 0's main thread, for each step.
    """

    groups_per_s: list[float]
    steps_per_s: list[float]
    waiting: float
    cpu_s: float


def run(split: Split, run_dir: Path, seconds: float) -> tuple[list[Row], list[float]]:
    """One run under torchrun: its logged steps; CPU seconds used at the start of each step.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    run_ranks(
        "benchmarks.paced_trainer",
        run_dir,
        split.overrides(seconds),
        num_ranks=split.generators + split.trainers,
        timeout_s=START_S + 3 * seconds,
        variables={STEP_S: str(STEP_TIME_S)},
    )
    cpu_s: list[float] = json.loads((run_dir / CPU_FILE).read_text())
    rows = read_jsonl(run_dir / "metrics.jsonl")
    return [row for row in rows if metrics.LOSS_TOTAL in row], cpu_s


def achieved(rows: Sequence[Row], cpu_s: Sequence[float]) -> Achieved:
    """Rates over `REPEATS` stretches after the warm-up.

    Groups that came in are uses, and what the limiter says is still owed, over the reuse.
    """
    start_s = rows[0]["time_s"] + WARM_UP_S
    steady = [row for row in rows if row["time_s"] >= start_s]
    marks = [steady[round(i * (len(steady) - 1) / REPEATS)] for i in range(REPEATS + 1)]
    groups, steps = [], []
    for first, last in pairwise(marks):
        lasted_s = last["time_s"] - first["time_s"]
        num_steps = last["step"] - first["step"]
        owed = last[metrics.POOL_ERROR] - first[metrics.POOL_ERROR]
        groups.append((num_steps * BATCH_GROUPS + owed) / REUSE / lasted_s)
        steps.append(num_steps / lasted_s)
    first, last = marks[0]["step"], marks[-1]["step"] - 1
    used_s = (cpu_s[last] - cpu_s[first]) / (last - first)
    return Achieved(groups, steps, _waiting(marks[0], marks[-1], rows[0]), used_s)


def _waiting(first: Row, last: Row, start: Row) -> float:
    # Shares are of the time since the first step began; the first row is that of LOG_EVERY_STEPS.
    lead_s = LOG_EVERY_STEPS * STEP_TIME_S
    ends_s = [row["time_s"] - start["time_s"] + lead_s for row in (first, last)]
    waited_s = [
        row[metrics.WAIT_GROUPS] * end for row, end in zip((first, last), ends_s, strict=True)
    ]
    return (waited_s[1] - waited_s[0]) / (ends_s[1] - ends_s[0])


def cells(split: Split, found: Achieved) -> list[str]:
    """One row of the table."""
    of_limit = spread([rate / split.limit_per_s for rate in found.groups_per_s])
    whole = _mean(found.groups_per_s) / split.limit_per_s
    overhead_ms = 1e3 * (1 / _mean(found.steps_per_s) - STEP_TIME_S)
    overhead = f"{overhead_ms:.1f}, {1e3 * found.cpu_s:.1f}"
    return [
        f"{split.generators}+{split.trainers}",
        split.limited_by,
        f"{split.limit_per_s:.1f}",
        f"{_mean(found.groups_per_s):.2f}",
        f"{whole:.3f}",
        f"{of_limit:.3f}",
        overhead if split.limited_by == "training" else "",
        f"{100 * found.waiting:.2f} %",
    ]


HEAD: Final = (
    "ranks",
    "limited by",
    "limit, groups/s",
    "achieved",
    "of the limit",
    "stretches",
    "overhead, its CPU, ms a step",
    "waited for groups",
)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every split both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", nargs="+", default=list(RANKS), metavar="G+T")
    parser.add_argument("--limited-by", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--seconds", type=float, default=24.0)
    options = parser.parse_args(arguments)
    rows = []
    for ranks in options.ranks:
        generators, trainers = map(int, ranks.split("+"))
        for side in options.limited_by:
            split = Split(generators, trainers, side)
            with tempfile.TemporaryDirectory() as folder:
                found = achieved(*run(split, Path(folder) / "run", options.seconds))
            rows.append(cells(split, found))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"SYNTHETIC engines; steps of {STEP_TIME_S} s, {BATCH_GROUPS} groups, {REUSE:g} uses")
    print(table(HEAD, rows))
    print(describe("torch", "pyzmq"))


if __name__ == "__main__":
    main()
