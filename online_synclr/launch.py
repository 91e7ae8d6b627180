"""One rank of a run, from its place in the world to its role's entry point."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from online_synclr.config import Config, ConfigError, resolved_yaml
from online_synclr.process_control import GOES_ON
from online_synclr.rendezvous import Rendezvous, RendezvousError, RunIdentity
from online_synclr.run_folder import RunFolder, incarnation_of, write_durably
from online_synclr.run_keys import check_keys, make_run_keys, rank_key
from online_synclr.topology import (
    Member,
    RankEnv,
    Roster,
    check_gpus,
    check_roster,
    gpu_of,
    node_split,
)


class RankFailedError(RuntimeError):
    """This rank cannot go on; the message is one sentence for people.

    Where several ranks fail alike, only one is the `spokesman` that prints it.
    """

    def __init__(self, message: str, *, exit_code: int = 1, spokesman: bool = True) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.spokesman = spokesman


def run_rank(config: Config, env: RankEnv, launch_time: float) -> int:
    """Play this rank's role until the attempt ends; returns the exit code, or `GOES_ON`.

    Raises:
        ConfigError: the ranks together contradict the settings.
        RankFailedError: the rank cannot take part.
    """
    split = node_split(config, env.local_world_size)
    role = split.role_of(env.local_rank)
    if role == "generator":
        _check_generator(config, spokesman=env.local_rank == split.trainers)
    else:
        check_keys(config, "trainer")
    found = num_gpus(config)
    check_gpus(config, split, found)
    gpu = gpu_of(env.local_rank, found)
    try:
        rendezvous = Rendezvous.join(env)
        roster = rendezvous.exchange_roster(role, gpu)
        check_roster(roster, config)
        place = _Place(
            config=config,
            env=env,
            roster=roster,
            rendezvous=rendezvous,
            gpu=gpu,
            cpu_threads=cpu_threads(config, env),
            launch_time=launch_time,
        )
        return _run_trainer(place) if role == "trainer" else _run_generator(place)
    except RendezvousError as error:
        raise RankFailedError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Everything about this rank that both roles need."""

    config: Config
    env: RankEnv
    roster: Roster
    rendezvous: Rendezvous
    gpu: int | None
    cpu_threads: int
    launch_time: float

    def index_among(self, members: Sequence[Member]) -> int:
        """This rank's position among the ranks of its role."""
        return [member.rank for member in members].index(self.env.rank)


def cpu_threads(config: Config, env: RankEnv) -> int:
    """Torch threads of this rank: as set, or the node's cores shared between its ranks."""
    if config.run.cpu_threads:
        return config.run.cpu_threads
    return max(1, len(os.sched_getaffinity(0)) // env.local_world_size)


def num_gpus(config: Config) -> int:
    """GPUs that this process may use.

    Raises:
        ConfigError: `run.device=cuda`, and there is none.
    """
    if config.run.device == "cpu":
        return 0
    import torch

    found = torch.cuda.device_count()
    if config.run.device == "cuda" and not found:
        raise ConfigError("run.device=cuda but torch sees no GPU; set run.device=cpu or auto.")
    return found


def _run_trainer(place: "_Place") -> int:
    from trainer.main import run_trainer
    from trainer.role import TrainerRole

    config, rendezvous = place.config, place.rendezvous
    index = place.index_among(place.roster.trainers)
    with ExitStack() as stack:
        identity = _set_up_run(place, stack) if index == 0 else rendezvous.await_run()
        role = TrainerRole(
            run_id=identity.run_id,
            run_dir=config.run.dir,
            incarnation=identity.incarnation,
            trainer_index=index,
            roster=place.roster,
            gpu=place.gpu,
            cpu_threads=place.cpu_threads,
            rendezvous=rendezvous,
            attempt=place.env.attempt,
            launch_time=place.launch_time,
        )
        return run_trainer(config, role)


def _set_up_run(place: "_Place", stack: ExitStack) -> RunIdentity:
    """Trainer 0: make and lock the run folder, raise the incarnation, tell everybody.

    Raises:
        ConfigError: the folder cannot be used; the other ranks are told to leave.
    """
    folder = RunFolder(place.config.run.dir)
    try:
        folder.create()
        stack.enter_context(folder.lock(patience_s=place.config.run.grace_s))
        folder.remove_leftovers()
        write_durably(folder.config, resolved_yaml(place.config))
        make_run_keys(place.config, one_host=place.roster.one_host)
        identity = RunIdentity(folder.run_id(), folder.raise_incarnation(_seeds_used(place)))
    except (ConfigError, OSError) as error:
        reason = f"run.dir={folder.root} cannot be used ({error})"
        sentence = str(error) if isinstance(error, ConfigError) else reason
        place.rendezvous.publish_refusal(sentence)
        raise ConfigError(sentence) from None
    place.rendezvous.publish_run(identity)
    return identity


def _seeds_used(place: "_Place") -> int:
    """The incarnation of the checkpoint that the run starts from, if it is another folder's."""
    resume = place.config.run.resume
    return 0 if resume in ("auto", "never") else incarnation_of(Path(resume).expanduser())


def _run_generator(place: "_Place") -> int:
    from generators.errors import SetupError
    from generators.main import run_generator
    from generators.role import GeneratorRole

    identity = place.rendezvous.await_run()
    config = place.config
    if config.trainer.high_resolution.steps:
        config = config.at_step(place.rendezvous.await_start())
    on_this_node = [member for member in place.roster.generators if member.node == place.env.node]
    local_index = place.index_among(on_this_node)
    addresses = place.rendezvous.await_addresses(len(place.roster.trainers))
    role = GeneratorRole(
        run_id=identity.run_id,
        run_dir=place.config.run.dir,
        incarnation=identity.incarnation,
        generator_index=place.index_among(place.roster.generators),
        num_generators=len(place.roster.generators),
        node_index=place.env.node,
        local_generator_index=local_index,
        trainer_addresses=tuple(addresses),
        key_path=rank_key(place.config, one_host=place.roster.one_host),
        gpu=place.gpu,
        cpu_threads=place.cpu_threads,
    )
    try:
        code = run_generator(config, role, moved_on=lambda: place.rendezvous.goes_on)
    except SetupError as error:
        raise RankFailedError(f"{role.generator_id}: {error}") from None
    return GOES_ON if code == 0 and place.rendezvous.goes_on else code


def _check_generator(config: Config, *, spokesman: bool) -> None:
    """What only a generator rank may look at, before anything loads; one of the node speaks."""
    from generators.errors import SetupError
    from generators.language.factory import check_installed

    try:
        check_concept_bank(config)
        check_keys(config, "generator")
        check_installed(config.captions)
    except (ConfigError, SetupError) as error:
        raise RankFailedError(str(error), exit_code=2, spokesman=spokesman) from None


def check_concept_bank(config: Config) -> None:
    """Read the concept bank, if one is used, as a generator does, for its errors.

    Raises:
        ConfigError: a file of the bank is missing or wrong.
    """
    if config.captions.backend == "ledger":
        return
    from generators.concepts import ConceptBank, ConceptBankError

    try:
        ConceptBank.load(config.captions.bank)
    except ConceptBankError as error:
        raise ConfigError(f"captions.bank: {error}") from None
