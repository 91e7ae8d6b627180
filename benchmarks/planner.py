"""What the planner predicts against what a run then does, and what adaptive reuse is worth.

    python -m benchmarks.planner [--only synthetic embedded adaptive]

Part `synthetic`: one generator and the trainers' step are measured as `plan` does it; each split is
predicted and then run under torchrun. Captions and pictures are SYNTHETIC; a generator keeps a rate
that is set from the trainer's measured step, so that two ranks leave the trainer waiting and four
the generators, on a machine of any speed. Part `embedded`: the same for one generator and one
trainer with the models that ship with the project, one thread each. Part `adaptive`: a generator
that is too slow for the trainer (SYNTHETIC), with `pool.adaptive_reuse` and without.

The machine may be shared and its speed drifts, so what computes is measured before each run and
again after it, and the prediction is made from the mean of both; `drift` is how much longer a step
took the second time. A run's first third is left out: it lives on what the pool held. Each run is
one figure, not a median: it is a mean over many steps.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import measuring, tiny
from benchmarks.planned_run import Achieved, run_split
from online_synclr.config import Config, load_config
from online_synclr.paths import CONFIGS_DIR
from online_synclr.planning.measuring import Bench
from online_synclr.planning.model import Balance, Workload, predict
from online_synclr.planning.rates import GeneratorRate, Rates, StepPoint, StepTimes
from online_synclr.topology import Split

PARTS: Final = ("synthetic", "embedded", "adaptive")
SPLITS: Final = (
    Split(generators=1, trainers=1),
    Split(generators=2, trainers=1),
    Split(generators=3, trainers=1),
    Split(generators=2, trainers=2),
)
ONE_EACH: Final = SPLITS[0]
LEAST_STEPS: Final = 30
FED: Final = 0.45
"""Share of one trainer's steps that one synthetic generator feeds."""
COMMON: Final = (
    "run.device=cpu",
    "run.cpu_threads=1",
    "stream.heartbeat_s=0.5",
    "monitor.knn_folder=''",
    "monitor.samples_every_steps=0",
    "monitor.log_every_steps=5",
    "trainer.checkpoint.every_steps=0",
)
SYNTHETIC: Final = (
    *COMMON,
    *tiny.ENGINES,
    *tiny.TRAINING,
    "images.batch_groups=1",
    "trainer.batch_groups=32",
)
HEAD: Final = ("ranks", "reuse", "steps/s", "off", "trainers wait", "generators wait", "drift")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--run-s", type=float, default=20.0, help="of each run, about")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="online-synclr-planner-") as folder:
        trials = Trials(Path(folder), seconds=options.seconds, run_s=options.run_s)
        for part in PARTS:
            if part in options.only:
                print(f"{getattr(trials, part)()}\n", flush=True)
    print(measuring.describe("torch", "pyzmq"))


class Trials:
    """The parts of this benchmark."""

    def __init__(self, folder: Path, *, seconds: float, run_s: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._run_s = run_s

    def synthetic(self) -> str:
        """A row for each split."""
        alone = self._bench(SYNTHETIC, 4).trainers([ONE_EACH], nodes=1)
        settings = (*SYNTHETIC, f"images.rate_images_per_s={rate_feeding(alone, FED):.4g}")
        generator = self._bench(settings, 4).generator(1)
        rows = [self._trial(split, settings, generator) for split in SPLITS]
        return f"predicted -> achieved, SYNTHETIC engines\n\n{measuring.table(HEAD, rows)}"

    def embedded(self) -> str:
        """One generator and one trainer with real models."""
        rows = [self._trial(ONE_EACH, COMMON, None)]
        return f"predicted -> achieved, embedded models\n\n{measuring.table(HEAD, rows)}"

    def adaptive(self) -> str:
        """Without and with: one generator feeds half of the steps at the lowest reuse."""
        alone = self._bench(SYNTHETIC, 2).trainers([ONE_EACH], nodes=1)
        slow = rate_feeding(alone, 0.5, reuse=2.0)
        pool = ("pool.samples_per_insert=2", "pool.max_reuse=8")
        common = (*SYNTHETIC, *pool, f"images.rate_images_per_s={slow:.4g}")
        given = GeneratorRate(groups_per_s=slow / load(common).images.per_caption)
        rows = []
        for switch in ("false", "true"):
            settings = (*common, f"pool.adaptive_reuse={switch}")
            told = predicted(settings, Rates(generator=given, trainer=alone, source=""), ONE_EACH)
            done = self._run(ONE_EACH, settings, told)
            reuse, wait = f"{done.reuse_in_force:.3g}", f"{done.trainer_wait:.0%}"
            rows.append((switch, reuse, f"{done.steps_per_s:.3g}", wait))
        head = ("pool.adaptive_reuse", "reuse in force", "steps/s", "trainers wait")
        return f"one slow SYNTHETIC generator\n\n{measuring.table(head, rows)}"

    def _trial(
        self, split: Split, settings: Sequence[str], known: GeneratorRate | None
    ) -> Sequence[str]:
        """Measure, run, measure again. `known`: of generators that keep a set rate."""
        before = self._rates(split, settings, known)
        done = self._run(split, settings, predicted(settings, before, split))
        after = self._rates(split, settings, known)
        told = predicted(settings, mean_rates(before, after, split, settings), split)
        drift = step_s(after, split, settings) / step_s(before, split, settings) - 1.0
        return (*row(split, told, done), f"{drift:+.0%}")

    def _rates(self, split: Split, settings: Sequence[str], known: GeneratorRate | None) -> Rates:
        bench = self._bench(settings, split.generators + split.trainers)
        return Rates(
            generator=known or bench.generator(1),
            trainer=bench.trainers([split], nodes=1),
            source="measured",
        )

    def _run(self, split: Split, settings: Sequence[str], told: Balance) -> Achieved:
        steps = max(LEAST_STEPS, round(told.steps_per_s * self._run_s))
        folder = self._folder / str(len(list(self._folder.iterdir())))
        _say(f"running {split.generators}+{split.trainers} for {steps} steps")
        return run_split(split, folder, (*settings, f"trainer.steps={steps}"))

    def _bench(self, settings: Sequence[str], ranks: int) -> Bench:
        """What `plan` measures with."""
        return Bench(
            config=load(settings), ranks=ranks, num_gpus=0, seconds=self._seconds, say=_say
        )


def load(settings: Sequence[str]) -> Config:
    """configs/demo.yaml with these settings."""
    return load_config(CONFIGS_DIR / "demo.yaml", settings)


def rate_feeding(trainer: StepTimes, share: float, reuse: float | None = None) -> float:
    """Images a second of a generator that feeds this share of one trainer's steps."""
    config = load(SYNTHETIC)
    work = Workload.of(config)
    steps_per_s = 1.0 / trainer.step_s(1, work.batch_groups * work.images_used)
    groups_per_s = share * steps_per_s * work.batch_groups / (reuse or work.reuse)
    return groups_per_s * work.images_rendered


def predicted(settings: Sequence[str], rates: Rates, split: Split) -> Balance:
    """The planner's word for this split."""
    found = predict(rates, Workload.of(load(settings)), split).balance
    assert found is not None, "nothing here is large"
    return found


def mean_rates(before: Rates, after: Rates, split: Split, settings: Sequence[str]) -> Rates:
    """Both sides' times between those of two measurements."""
    steps_s = [step_s(rates, split, settings) for rates in (before, after)]
    groups_s = [1.0 / rates.generator.groups_per_s for rates in (before, after)]
    step = StepPoint(
        num_trainers=split.trainers,
        local_images=local_images(split, settings),
        step_s=statistics.mean(steps_s),
    )
    return Rates(
        generator=GeneratorRate(groups_per_s=1.0 / statistics.mean(groups_s)),
        trainer=StepTimes([step]),
        source="mean",
    )


def step_s(rates: Rates, split: Split, settings: Sequence[str]) -> float:
    """Seconds of a step of this split's trainers."""
    return rates.trainer.step_s(split.trainers, local_images(split, settings))


def local_images(split: Split, settings: Sequence[str]) -> int:
    """Images of a trainer's step."""
    work = Workload.of(load(settings))
    return work.batch_groups // split.trainers * work.images_used


def row(split: Split, told: Balance, done: Achieved) -> Sequence[str]:
    """One line of the table."""
    off = done.steps_per_s / told.steps_per_s - 1.0
    return (
        f"{split.generators}+{split.trainers}",
        f"{told.reuse:g}",
        f"{told.steps_per_s:.3g} -> {done.steps_per_s:.3g}",
        f"{off:+.1%}",
        f"{told.trainer_wait:.0%} -> {done.trainer_wait:.0%}",
        f"{told.generator_wait:.0%} -> {done.generator_wait:.0%}",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
