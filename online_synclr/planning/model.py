"""What a split of ranks does: a pure function of the rates of both sides.

With t the time of a step, g the groups a second of all generators, B the groups of a step and r
the reuse:

    steps/s = min(1 / t, g * r / B)
    trainers wait 1 - steps/s * t of their time, generators 1 - steps/s * B / (g * r)

Neither waits at r = B / (t * g). Adaptive reuse takes that r within [samples_per_insert,
max_reuse]. The limiter between the sides (`online_synclr.stream.limiter`) only bounds how far they
run apart, so it does not appear in rates over times longer than it takes to fill the pool.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from online_synclr.config.schema import Config
from online_synclr.planning.rates import Rates
from online_synclr.topology import Split

DAY_S = 86400.0
EQUAL = 0.005
"""Splits whose steps/s differ by less are equally fast; of these the one that waits less counts."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a run asks of both sides.

    `batch_groups`: of a step, over all trainers; `images_used` and `images_rendered`: of a group.
    """

    batch_groups: int
    images_used: int
    images_rendered: int
    steps: int
    reuse: float
    max_reuse: int
    adaptive: bool

    @classmethod
    def of(cls, config: Config) -> "Workload":
        """That of the settings."""
        return cls(
            batch_groups=config.trainer.batch_groups,
            images_used=config.images_per_group,
            images_rendered=config.images.per_caption,
            steps=config.trainer.steps,
            reuse=config.pool.samples_per_insert,
            max_reuse=config.pool.max_reuse,
            adaptive=config.pool.adaptive_reuse,
        )

    def reuse_in_force(self, balanced: float) -> float:
        """The reuse that a run comes to where neither side would wait at `balanced`."""
        if not self.adaptive:
            return self.reuse
        return max(self.reuse, min(balanced, float(self.max_reuse)))


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Two sides that feed each other. Waits are shares of time."""

    steps_per_s: float
    reuse: float
    balanced_reuse: float
    groups_per_s: float
    trainer_wait: float
    generator_wait: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One split of every node's ranks. `nodes` split alike; bytes are of one rank, 0: not known.

    `fits`: whether a trainer's share of the batch goes into memory; if not, `balance` is None.
    """

    split: Split
    nodes: int
    local_groups: int
    balance: Balance | None
    days: float
    images_a_day: float
    captions_a_day: float
    trainer_rss_bytes: float
    trainer_gpu_bytes: float
    generator_rss_bytes: float
    generator_gpu_bytes: float

    @property
    def fits(self) -> bool:
        """Whether it can run at all."""
        return self.balance is not None

    @property
    def name(self) -> str:
        """`6+2`: generators + trainers of a node."""
        return f"{self.split.generators}+{self.split.trainers}"


def balance(*, step_s: float, groups_per_s: float, workload: Workload) -> Balance:
    """The module's formula.

    Args:
        step_s: time of a step that waits for nothing.
        groups_per_s: of all generators, none of which waits.
        workload: batch, reuse.
    """
    batch = workload.batch_groups
    balanced = batch / (step_s * groups_per_s)
    reuse = workload.reuse_in_force(balanced)
    by_trainers, by_generators = 1.0 / step_s, groups_per_s * reuse / batch
    steps_per_s = min(by_trainers, by_generators)
    return Balance(
        steps_per_s=steps_per_s,
        reuse=reuse,
        balanced_reuse=balanced,
        groups_per_s=steps_per_s * batch / reuse,
        trainer_wait=1.0 - steps_per_s / by_trainers,
        generator_wait=1.0 - steps_per_s / by_generators,
    )


def predict(rates: Rates, workload: Workload, split: Split, *, nodes: int = 1) -> Prediction:
    """What `nodes` nodes of this split do. `split` must divide the batch and have both roles."""
    local_groups = workload.batch_groups // (nodes * split.trainers)
    local_images = local_groups * workload.images_used
    found = None
    if rates.trainer.fits(local_images):
        found = balance(
            step_s=rates.trainer.step_s(split.trainers, local_images),
            groups_per_s=nodes * rates.generator.of_node(split.generators),
            workload=workload,
        )
    groups_a_day = found.groups_per_s * DAY_S if found else 0.0
    trainer_rss, trainer_gpu = rates.trainer.memory(split.trainers, local_images)
    return Prediction(
        split=split,
        nodes=nodes,
        local_groups=local_groups,
        balance=found,
        days=workload.steps / (found.steps_per_s * DAY_S) if found else float("inf"),
        images_a_day=groups_a_day * workload.images_rendered,
        captions_a_day=groups_a_day,
        trainer_rss_bytes=trainer_rss,
        trainer_gpu_bytes=trainer_gpu,
        generator_rss_bytes=rates.generator.rss_bytes,
        generator_gpu_bytes=rates.generator.gpu_bytes,
    )


def predict_all(
    rates: Rates, workload: Workload, splits: Iterable[Split], *, nodes: int = 1
) -> list[Prediction]:
    """`predict` for each."""
    return [predict(rates, workload, split, nodes=nodes) for split in splits]


def best(predictions: Sequence[Prediction]) -> Prediction | None:
    """The fastest; of equally fast ones the one whose sides wait less. None: none fits."""
    able = [(one.balance, one) for one in predictions if one.balance is not None]
    if not able:
        return None
    fastest = max(found.steps_per_s for found, _ in able)
    equal = [pair for pair in able if pair[0].steps_per_s >= (1 - EQUAL) * fastest]
    return min(equal, key=lambda pair: pair[0].trainer_wait + pair[0].generator_wait)[1]
