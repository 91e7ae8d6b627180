"""Which rank plays which role, and on which GPU.

Trainers take the lowest local ranks of each node, generators the others. The split is per node:
a node may run generators only. Pure functions; nothing here opens a socket or imports torch.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from online_synclr.config import Config, ConfigError, check_shares
from online_synclr.config.checks import is_loopback
from online_synclr.config.schema import StreamConfig
from online_synclr.process_control import STARTS_IN_PLACE

Role = Literal["trainer", "generator"]
DEFAULT_RANKS_PER_TRAINER = 4
"""Where neither number is given, one rank in this many trains: rendering is the costlier side."""


@dataclass(frozen=True, kw_only=True)
class RankEnv:
    """What torchrun tells a rank through its environment."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node: int
    num_nodes: int
    restart_count: int
    under_torchrun: bool
    starts_in_place: int = 0
    """How often the rank has started itself anew since torchrun started it."""

    @property
    def attempt(self) -> int:
        """Starts of the job before this one, whoever made them."""
        return self.restart_count + self.starts_in_place

    @property
    def attempt_name(self) -> str:
        """As the ranks of one attempt call it in torchrun's store: no other has the same."""
        return f"{self.restart_count}.{self.starts_in_place}"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "RankEnv":
        """Read torchrun's variables; a plain `python -m` is rank 0 of 1."""
        return cls(
            rank=int(environ.get("RANK", 0)),
            local_rank=int(environ.get("LOCAL_RANK", 0)),
            world_size=int(environ.get("WORLD_SIZE", 1)),
            local_world_size=int(environ.get("LOCAL_WORLD_SIZE", 1)),
            node=int(environ.get("GROUP_RANK", 0)),
            num_nodes=int(environ.get("GROUP_WORLD_SIZE", 1)),
            restart_count=int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
            under_torchrun="RANK" in environ and "WORLD_SIZE" in environ,
            starts_in_place=int(environ.get(STARTS_IN_PLACE, 0)),
        )


@dataclass(frozen=True)
class Split:
    """Ranks by role on one node."""

    trainers: int
    generators: int

    def role_of(self, local_rank: int) -> Role:
        """The lowest local ranks train."""
        return "trainer" if local_rank < self.trainers else "generator"


def node_split(config: Config, local_world_size: int) -> Split:
    """The node's split; a number left out takes the other ranks.

    Raises:
        ConfigError: the numbers do not add up to the node's ranks.
    """
    trainers, generators = config.topology.trainers, config.topology.generators
    if trainers is None and generators is None:
        return _default_split(local_world_size, config.trainer.batch_groups)
    if trainers is None:
        assert generators is not None
        trainers = local_world_size - generators
    elif generators is None:
        generators = local_world_size - trainers
    if min(trainers, generators) < 0 or trainers + generators != local_world_size:
        raise ConfigError(_mismatch_sentence(trainers, generators, local_world_size))
    return Split(trainers=trainers, generators=generators)


def _mismatch_sentence(trainers: int, generators: int, num_ranks: int) -> str:
    wanted = max(trainers, 0) + max(generators, 0)
    return (
        f"topology asks for {max(generators, 0)} generators + {max(trainers, 0)} trainers on this "
        f"node, but it has {num_ranks} rank{'s' if num_ranks != 1 else ''}; launch with "
        f"--nproc_per_node={max(wanted, 2)} or change topology.generators and topology.trainers."
    )


def _default_split(num_ranks: int, batch_groups: int) -> Split:
    if num_ranks < 2:
        raise ConfigError(
            "a run needs a generator rank and a trainer rank, but this node has one rank; launch "
            "with torchrun --nproc_per_node=2 -m online_synclr (they may share a GPU)."
        )
    most = max(1, num_ranks // DEFAULT_RANKS_PER_TRAINER)
    trainers = next(count for count in range(most, 0, -1) if batch_groups % count == 0)
    return Split(trainers=trainers, generators=num_ranks - trainers)


def gpu_of(local_rank: int, num_gpus: int) -> int | None:
    """GPU of a rank, or None on CPU.

    Ranks take GPUs in order, so trainers get one each first; where ranks outnumber GPUs they wrap
    round and share (a generator with a trainer, for example).
    """
    return local_rank % num_gpus if num_gpus else None


def check_gpus(config: Config, split: Split, num_gpus: int) -> None:
    """Refuse what a node's GPUs cannot be asked for; without any, all is computed on the CPU.

    Raises:
        ConfigError: two NCCL trainers on one GPU, or a caption server on one that is not there.
    """
    _check_gpu_sharing(split, num_gpus)
    if split.generators:
        _check_server_device(config, num_gpus)


def _check_gpu_sharing(split: Split, num_gpus: int) -> None:
    if num_gpus and split.trainers > num_gpus:
        raise ConfigError(
            f"topology.trainers={split.trainers} but this node has {num_gpus} GPU"
            f"{'s' if num_gpus != 1 else ''}, and two NCCL trainers cannot share one; lower "
            "topology.trainers or set run.device=cpu."
        )


def _check_server_device(config: Config, num_gpus: int) -> None:
    gpu = config.captions.vllm.server_device
    if config.captions.server == "per_node" and num_gpus and gpu is not None and gpu >= num_gpus:
        raise ConfigError(
            f"captions.vllm.server_device={gpu} but this node's GPUs are 0 to {num_gpus - 1}; "
            "set one of these, or null for the GPU of the node's first generator."
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """One rank of the run, as every other rank knows it."""

    rank: int
    local_rank: int
    node: int
    host: str
    role: Role
    gpu: int | None

    @property
    def device(self) -> str:
        """Device name for people."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"


@dataclass(frozen=True)
class Roster:
    """All ranks of the run, in rank order."""

    members: Sequence[Member]

    @property
    def trainers(self) -> list[Member]:
        """Trainers in rank order; position is the trainer index."""
        return [member for member in self.members if member.role == "trainer"]

    @property
    def generators(self) -> list[Member]:
        """Generators in rank order; position is the generator index."""
        return [member for member in self.members if member.role == "generator"]

    @property
    def one_host(self) -> bool:
        """Whether every rank is on the same machine."""
        return len({member.host for member in self.members}) == 1

    def table(self) -> str:
        """The rank table, for people."""
        rows = ["rank  node  local  role       index  device"]
        counts = {"trainer": 0, "generator": 0}
        for member in self.members:
            index = counts[member.role]
            counts[member.role] += 1
            rows.append(
                f"{member.rank:>4}  {member.node:>4}  {member.local_rank:>5}  "
                f"{member.role:<9}  {index:>5}  {member.device}"
            )
        return "\n".join(rows)


def check_roster(roster: Roster, config: Config) -> None:
    """What can only be checked with every node's split known.

    Raises:
        ConfigError: no trainer, no generator, a trainer that none serves, a batch that does not
            divide, or several hosts.
    """
    num_trainers, num_generators = len(roster.trainers), len(roster.generators)
    if not num_trainers:
        raise ConfigError("no rank is a trainer; raise topology.trainers on some node.")
    if not num_generators and not config.topology.await_joiners:
        raise ConfigError(
            "no rank is a generator; raise topology.generators on some node, or, if generators "
            "will join on their own, set topology.await_joiners=true."
        )
    check_shares(config, num_trainers)
    fan_out = config.stream.fan_out
    if 0 < fan_out * num_generators < num_trainers:
        raise ConfigError(
            f"stream.fan_out={fan_out} with {num_generators} generator"
            f"{'s' if num_generators != 1 else ''} leaves some of the {num_trainers} trainers "
            f"without groups; set it to at least {-(-num_trainers // num_generators)}, or to 0."
        )
    if not roster.one_host and is_loopback(config.stream.host):
        hosts = sorted({member.host for member in roster.members})
        raise ConfigError(
            f"the ranks are on {len(hosts)} hosts ({', '.join(hosts[:3])}), but trainers listen on "
            f"stream.host={config.stream.host} only; set stream.host=0.0.0.0 and stream.keys to "
            "a copy of one key folder on every host."
        )


def transport_of(stream: StreamConfig, *, one_host: bool) -> Literal["ipc", "tcp"]:
    """What `stream.transport` comes to for ranks on one host, or on several."""
    if stream.transport != "auto":
        return stream.transport
    return "ipc" if one_host and is_loopback(stream.host) else "tcp"


def planned_roster(
    config: Config, *, num_nodes: int, local_world_size: int, num_gpus: int
) -> Roster:
    """The roster if every node splits alike (what `--dry-run` shows)."""
    split = node_split(config, local_world_size)
    host = socket.gethostname()
    members = [
        Member(
            rank=node * local_world_size + local_rank,
            local_rank=local_rank,
            node=node,
            host=host,
            role=split.role_of(local_rank),
            gpu=gpu_of(local_rank, num_gpus),
        )
        for node in range(num_nodes)
        for local_rank in range(local_world_size)
    ]
    return Roster(members)
