"""What generating and training take from each other: each side alone, and both at once.

    python -m benchmarks.overlap [--repeats 9] [--phase-s 4]

One run of the embedded models at the sizes of configs/demo.yaml under torchrun, the trainer on one
core and the generator on another. In turn both work, the generator is stopped, the trainer only
receives (`benchmarks.phased_rank`). Reuse is unbounded, so that neither side ever waits for the
other. What each keeps is its rate together over its rate alone, repeat by repeat; by the second,
and by the CPU second of its process, which other work on the machine disturbs less.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import REPEATS, describe, ratio, spread, table
from benchmarks.phased_rank import KINDS, PHASE_S, PHASES_FILE
from benchmarks.phased_rank import REPEATS as REPEATS_VARIABLE
from benchmarks.ranks import run_ranks

OVERRIDES: Final = (
    "topology.generators=1",
    "topology.trainers=1",
    # Small, so that groups arrive often enough to be counted in a phase of seconds.
    "images.batch_groups=2",
    "captions.batch_captions=4",
    "pool.samples_per_insert=1",
    "pool.max_reuse=100000",
    "pool.min_groups=12",
    "pool.error_buffer=10000000",
    "trainer.steps=100000",
    "trainer.checkpoint.every_steps=0",
    "stream.silence_s=600",
    "monitor.knn_folder=''",
)
START_S: Final = 300.0
SLOWEST: Final = 10
"""Phases wait for a few steps and groups of each side; a machine so much slower is given up on."""

SIDES: Final = {"generator": "groups", "trainer": "steps"}


def run(run_dir: Path, repeats: int, phase_s: float) -> list[dict[str, Any]]:
    """The phases of one run.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    variables = {REPEATS_VARIABLE: str(repeats), PHASE_S: str(phase_s)}
    run_ranks(
        "benchmarks.phased_rank",
        run_dir,
        OVERRIDES,
        num_ranks=2,
        timeout_s=START_S + SLOWEST * repeats * len(KINDS) * phase_s,
        variables=variables,
    )
    found: list[dict[str, Any]] = json.loads((run_dir / PHASES_FILE).read_text())
    return found


def rates(phases: Sequence[dict[str, Any]], kind: str, what: str, place: int) -> list[float]:
    """Of all phases of that kind, by repeat. `place`: 0: a second, 1: a CPU second."""
    return [phase[what][place] for phase in phases if phase["kind"] == kind]


def row(phases: Sequence[dict[str, Any]], side: str) -> list[str]:
    """One side's row of the table."""
    what = SIDES[side]
    alone = [rates(phases, f"{side} alone", what, place) for place in (0, 1)]
    together = [rates(phases, "together", what, place) for place in (0, 1)]
    return [
        side,
        f"{what}/s",
        f"{spread(alone[0]):.2f}",
        f"{spread(together[0]):.2f}",
        f"{ratio(together[0], alone[0]):.2f}",
        f"{ratio(together[1], alone[1]):.2f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print what each side keeps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--phase-s", type=float, default=4.0)
    options = parser.parse_args(arguments)
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for each side")
    with tempfile.TemporaryDirectory() as folder:
        phases = run(Path(folder) / "run", options.repeats, options.phase_s)
    head = ["side", "rate", "alone", "together", "keeps", "keeps, of a CPU second"]
    print(table(head, [row(phases, side) for side in SIDES]))
    print(describe("torch", "diffusers"))


if __name__ == "__main__":
    main()
