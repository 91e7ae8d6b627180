"""The penalty is chosen: one fit for each value, judged on the validation part.

    strong > > > > | > > > > > | > > > > > | ... | > > > > > weak
    rank 0           rank 1      rank 2            rank 0

Values are taken from strong to weak in blocks; within a block each fit starts where the one before
ended, which takes about half the steps of one that starts without weights. Blocks are the
same whatever the number of ranks, so that it does not change the results; ranks take them in turn.
The ranks wait for each other once, at the end, to learn of all trials.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from evaluation.bench import Bench
from evaluation.finegrained.fit import Classifier, fit
from evaluation.finegrained.metrics import Metric
from evaluation.finegrained.objective import Problem
from evaluation.finegrained.settings import Settings
from evaluation.progress import progress
from trainer.collectives import gather_bytes

BLOCK = 5
"""Values in a block: the 45 make nine, for as many ranks."""


@dataclass(frozen=True)
class Trial:
    """One penalty. score: on the validation part. gradient: see `Fit`."""

    l2: float
    score: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool


def try_all(
    problem: Problem,
    val_features_ND: torch.Tensor,
    val_labels: torch.Tensor,
    *,
    metric: Metric,
    settings: Settings,
    bench: Bench,
    title: str,
) -> list[Trial]:
    """All trials, from strong to weak, on every rank. Tensors are on the problem's device."""
    blocks = _blocks(settings.l2_values)
    own = blocks[bench.rank :: bench.num_ranks]
    trials: list[Trial] = []
    with progress(bench, f"{title}: L2 values", sum(len(block) for block in own)) as advance:
        for block in own:
            start: Classifier | None = None
            for l2 in block:
                found = fit(
                    problem,
                    l2,
                    start=start,
                    max_iterations=settings.max_iterations,
                    tolerance=settings.tolerance,
                )
                start = found.classifier
                trials.append(
                    Trial(
                        l2=l2,
                        score=metric.score(start.scores(val_features_ND), val_labels),
                        gradient=found.gradient,
                        iterations=found.iterations,
                        evaluations=found.evaluations,
                        converged=found.converged,
                    )
                )
                advance(1)
    return _gather(trials, bench)


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The highest score; of equal ones that of the strongest penalty, the simplest classifier."""
    return max(trials, key=lambda trial: (trial.score, trial.l2))


def _blocks(values: Sequence[float]) -> list[Sequence[float]]:
    return [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]


def _gather(trials: list[Trial], bench: Bench) -> list[Trial]:
    """Everybody's trials."""
    data = json.dumps([asdict(trial) for trial in trials]).encode()
    every = [Trial(**entry) for one in gather_bytes(data, bench.group) for entry in json.loads(one)]
    return sorted(every, key=lambda trial: -trial.l2)
