"""The same model over a run's own figures: which other split or reuse would do more. Pure.

Trainers' time is taken as proportional to their share of the batch, generators as equal. Ranks that
share a GPU say nothing about other splits, since what one of them leaves the other takes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from online_synclr.config import Config, ConfigError, check_shares
from online_synclr.monitor import metrics
from online_synclr.monitor.roles import RunRoles
from online_synclr.planning.model import Balance, Workload, balance

LEAST_GAIN = 1.05
"""A change that does not bring as much is not worth a restart, and nothing is said of it."""


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """What a run is made of, as far as its advice needs it.

    `generators` and `trainers` are of all `nodes`; `trainer_counts`: numbers of trainers of all
    nodes that the settings allow on as many ranks, this one's included.
    """

    workload: Workload
    generators: int
    trainers: int
    nodes: int
    trainer_counts: tuple[int, ...]

    @classmethod
    def of(cls, config: Config, roles: RunRoles) -> "RunShape":
        """That of a launched run."""
        generators, trainers = len(roles.generators), roles.num_trainers
        nodes = max(1, len(roles.hosts))
        if generators % nodes or trainers % nodes:
            nodes = 1
        others: list[int] = []
        if not _share_gpus(roles):
            others = [
                count
                for count in range(nodes, generators + trainers, nodes)
                if _allowed(config, count)
            ]
        return cls(
            workload=Workload.of(config),
            generators=generators,
            trainers=trainers,
            nodes=nodes,
            trainer_counts=tuple(sorted({trainers, *others})),
        )

    def split_name(self, trainers: int) -> str:
        """`5+3`: generators + trainers of each node."""
        generators = self.generators + self.trainers - trainers
        return f"{generators // self.nodes}+{trainers // self.nodes}"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What would do more. `gain`: of the steps/s, by the split; 1.0: no other split is better."""

    text: str
    split: str
    gain: float


def advise(scalars: Mapping[str, float], shape: RunShape) -> Advice | None:
    """Advice from the capacities and the reuse among a run's metrics.

    None: they are not known yet, or nothing would gain `LEAST_GAIN`.
    """
    steps_per_s = scalars.get(metrics.CAPACITY_STEPS, 0.0)
    images_per_s = scalars.get(metrics.CAPACITY_GENERATOR, 0.0)
    if steps_per_s <= 0 or images_per_s <= 0 or not shape.generators:
        return None
    groups_per_s = images_per_s / shape.workload.images_rendered
    found = {
        trainers: balance(
            step_s=shape.trainers / (trainers * steps_per_s),
            groups_per_s=(shape.generators + shape.trainers - trainers) * groups_per_s,
            workload=shape.workload,
        )
        for trainers in shape.trainer_counts
    }
    now = found[shape.trainers]
    trainers = max(found, key=lambda count: found[count].steps_per_s)
    gain = found[trainers].steps_per_s / now.steps_per_s
    parts = []
    if gain >= LEAST_GAIN:
        where = " on each node" if shape.nodes > 1 else ""
        name = shape.split_name(trainers)
        parts.append(f"{name} (generators + trainers{where}) would reach {gain:.1f}x")
    parts += _about_reuse(now, shape.workload)
    if not parts:
        return None
    better = gain >= LEAST_GAIN
    return Advice(
        text=", or ".join(parts),
        split=shape.split_name(trainers) if better else "",
        gain=gain if better else 1.0,
    )


def _about_reuse(now: Balance, workload: Workload) -> list[str]:
    if workload.adaptive:
        return []
    if now.balanced_reuse >= workload.reuse:
        wanted = min(float(workload.max_reuse), math.floor(10 * now.balanced_reuse) / 10)
        gain = wanted / workload.reuse
        return [_setting(wanted, f"would reach {gain:.1f}x")] if gain >= LEAST_GAIN else []
    wanted = max(1.0, math.ceil(10 * now.balanced_reuse) / 10)
    gain = workload.reuse / wanted
    words = f"would train on {gain:.1f}x the captions at the same pace"
    return [_setting(wanted, words)] if gain >= LEAST_GAIN else []


def _setting(reuse: float, words: str) -> str:
    return f"pool.samples_per_insert={reuse:g} {words}"


def _allowed(config: Config, num_trainers: int) -> bool:
    try:
        check_shares(config, num_trainers)
    except ConfigError:
        return False
    return True


def _share_gpus(roles: RunRoles) -> bool:
    gpus = [d for d in (*roles.trainer_devices, *roles.generator_devices) if "cuda" in d]
    return len(set(gpus)) < len(gpus)
