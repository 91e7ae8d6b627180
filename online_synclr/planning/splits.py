"""Which splits of a node's ranks the settings allow."""

from dataclasses import dataclass

from online_synclr.config import Config, ConfigError
from online_synclr.topology import Split, check_roster, planned_roster


@dataclass(frozen=True)
class Splits:
    """Splits that can run, fewest trainers first, and why the others cannot, by split."""

    allowed: tuple[Split, ...]
    refused: dict[Split, str]


def with_split(config: Config, split: Split) -> Config:
    """The same settings on this split of every node."""
    changed = {"generators": split.generators, "trainers": split.trainers}
    topology = config.topology.model_copy(update=changed)
    return config.model_copy(update={"topology": topology})


def find_splits(config: Config, *, ranks: int, nodes: int = 1) -> Splits:
    """All splits of a node's `ranks` with at least one of each role.

    Raises:
        ConfigError: none can run; gives the reason of the first.
    """
    allowed: list[Split] = []
    refused: dict[Split, str] = {}
    for trainers in range(1, ranks):
        split = Split(trainers=trainers, generators=ranks - trainers)
        try:
            roster = planned_roster(
                with_split(config, split), num_nodes=nodes, local_world_size=ranks, num_gpus=0
            )
            check_roster(roster, config)
            allowed.append(split)
        except ConfigError as error:
            refused[split] = str(error)
    if not allowed:
        raise ConfigError(next(iter(refused.values())))
    return Splits(tuple(allowed), refused)
