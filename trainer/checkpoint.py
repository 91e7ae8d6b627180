"""What a checkpoint holds, and how all trainers save and restore it together.

Trainer 0 alone writes, so trainers need no shared file system: what is particular to a rank is
gathered to it, and `read_everywhere` brings the file to all. Both wait for every trainer; the vote
(saving) and the start of the run (restoring) see to it that all come. The pool's groups are not
saved.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
import yaml

from online_synclr.config import Config, ConfigError, resolved_yaml
from online_synclr.run_folder import INCARNATION_NAME
from trainer import checkpoint_files
from trainer.checkpoint_reading import as_bytes, as_tensor, read_everywhere
from trainer.checkpoint_search import newest_usable
from trainer.collectives import gather_bytes
from trainer.distributed import Trainers
from trainer.intake import Intake, IntakeState
from trainer.objective.optimizer import StudentOptimizer
from trainer.objective.shards import gathered, load_weights
from trainer.resampling import resampled
from trainer.step import TrainStep
from trainer.totals import Totals

FORMAT = 2
CONFIG_NAME = "config.yaml"


class RankState(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between ranks: torch's generators (drop path uses them) and the intake's counts.

    Crops, masks and the choice of images need no state: they are keyed by the step.
    """

    rng_cpu: bytes
    rng_gpu: bytes
    intake: IntakeState


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt continues: steps done, and what earlier attempts add to the summary."""

    step: int = 0
    totals: Totals = Totals()


def save(
    folder: Path,
    *,
    config: Config,
    step: int,
    train: TrainStep,
    intake: Intake,
    trainers: Trainers,
    totals: Totals | None,
    incarnation: int,
) -> Path | None:
    """Save after `step` steps; every trainer calls it. Trainer 0 gets the path, others None.

    Args:
        totals: on trainer 0, the run's counts so far; None elsewhere.
        incarnation: of this attempt; a run that starts from the checkpoint takes a higher one.

    Raises:
        OSError: the disk is full or gone; older checkpoints are as before.
    """
    mine = msgspec.msgpack.encode(_rank_state(intake, trainers.device))
    ranks = gather_bytes(mine, trainers.cpu_group)
    networks = {
        "student": train.model.student.state_dict(),
        "teacher": train.model.teacher.state_dict(),
        "optimizer": train.optimizer.state_dict(),
    }
    networks = gathered(networks, keep=trainers.is_first)
    if not trainers.is_first:
        return None
    assert totals is not None
    config_yaml = resolved_yaml(config)
    state = {
        "format": FORMAT,
        "step": step,
        "config": config_yaml,
        "frozen_teacher": _frozen_identity(train),
        **networks,
        "ranks": [as_tensor(rank) for rank in ranks],
        "totals": as_tensor(totals.encode()),
    }
    texts = {CONFIG_NAME: config_yaml, INCARNATION_NAME: f"{incarnation}\n"}
    path = checkpoint_files.write_checkpoint(folder, step, state, texts)
    checkpoint_files.prune(folder, config.trainer.checkpoint.keep)
    return path


def choose(
    config: Config, *, attempt: int = 0, say: Callable[[str], None] = lambda text: None
) -> Path | None:
    """The checkpoint that `run.resume` means; trainer 0's decision. None: start from scratch.

    Removes what dead attempts left half written. `say` is told of checkpoints that are set aside.
    `run.resume` speaks of how the job began: when torchrun restarts it (`attempt` above 0), it
    continues from what it has itself written, if anything.

    Raises:
        ConfigError: `never` with a run folder that has one, a path that cannot be continued, or
            a run folder whose checkpoints cannot be used.
    """
    newest = newest_usable(config.run.dir, say)
    resume = config.run.resume
    if resume == "auto" or (attempt > 0 and newest is not None):
        return newest
    if resume == "never":
        if newest is not None:
            raise ConfigError(
                f"run.resume=never, but {config.run.dir} has a checkpoint ({newest.name}); name "
                "another run.dir or use run.resume=auto."
            )
        return None
    path = Path(resume).expanduser()
    if newest is not None and path.resolve() != newest.resolve():
        raise ConfigError(
            f"run.resume={path}, but {config.run.dir} has a checkpoint of its own ({newest.name}); "
            "name another run.dir, or use run.resume=auto to continue from the newest."
        )
    return path


def steps_done(path: Path) -> int:
    """Steps that a checkpoint was written after.

    Raises:
        ConfigError: it is not complete, or of another format.
    """
    state = checkpoint_files.parse_file(checkpoint_files.complete_file(path))
    _check_format(state)
    return int(state["step"])


def restore(
    path: Path | None,
    *,
    config: Config,
    train: TrainStep,
    intake: Intake,
    trainers: Trainers,
    say: Callable[[str], None] = lambda text: None,
) -> Restored:
    """Load `path` (trainer 0's; the others' is not looked at) on every trainer.

    Everything but the ranks' own state is the same on every trainer and stands in the file whole,
    so another number of trainers reads the same file: there is nothing to reshard. Positions of
    another size are resampled in the high-resolution phase, and where it is asked for; trainer 0
    `say`s so.

    Raises:
        ConfigError: the file is not complete, its model has other shapes than the settings', or
            it is of another number of trainers and `trainer.resize_on_resume` is off.
    """
    state = read_everywhere(path, trainers)
    if state is None:
        return Restored()
    _check_format(state)
    _check_size(state, config, trainers)
    state = resampled(state, config, train, say if trainers.is_first else lambda text: None)
    _check_frozen_teacher(state, train)
    _check_shapes(state, train, config)
    load_weights(train.model.student, state["student"])
    load_weights(train.model.teacher, state["teacher"])
    _load_optimizer(train.optimizer, state["optimizer"], config)
    ranks = [msgspec.msgpack.decode(as_bytes(rank), type=RankState) for rank in state["ranks"]]
    _load_ranks(ranks, intake, trainers)
    totals = Totals.decode(as_bytes(state["totals"]))
    return Restored(step=int(state["step"]), totals=_balanced(totals, ranks))


def _balanced(totals: Totals, ranks: Sequence[RankState]) -> Totals:
    """With as many sent as the ranks' own counts make it.

    Groups went on arriving between the totals and the ranks' states; the states are what is
    counted on from.
    """
    received = sum(rank.intake["received"] for rank in ranks)
    return msgspec.structs.replace(totals, sent=received + totals.lost + totals.discarded)


def _load_optimizer(optimizer: StudentOptimizer, state: dict[str, Any], config: Config) -> None:
    if set(state) != set(optimizer.names):
        saved = "muon" if "muon" in state else "adamw"
        raise ConfigError(
            f"run.resume: the checkpoint was written with trainer.optimizer.name={saved}; set it "
            "back, or name another run.dir to start anew."
        )
    optimizer.load_state_dict(state)
    # Settings win over what was saved; rate and decay are set before every step anyway.
    settings = config.trainer.optimizer
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = settings.betas
        else:
            group["rate"] = settings.muon_lr_ratio


def _rank_state(intake: Intake, device: torch.device) -> RankState:
    on_gpu = device.type == "cuda"
    return RankState(
        rng_cpu=torch.get_rng_state().numpy().tobytes(),
        rng_gpu=torch.cuda.get_rng_state(device).numpy().tobytes() if on_gpu else b"",
        intake=intake.state_dict(),
    )


def _load_ranks(states: Sequence[RankState], intake: Intake, trainers: Trainers) -> None:
    """Give each rank its own state. With another number of trainers, trainer 0 counts for all,
    and torch's generators stay as they were seeded for this start: no two ranks may share a state.
    """
    if len(states) == trainers.size:
        own = states[trainers.index]
        _restore_generators(own, trainers.device)
        intake.load_state_dict(own.intake)
    elif trainers.is_first:
        intake.load_state_dict(_sum_intakes([state.intake for state in states]))


def _restore_generators(state: RankState, device: torch.device) -> None:
    torch.set_rng_state(as_tensor(state.rng_cpu))
    if device.type == "cuda" and state.rng_gpu:
        torch.cuda.set_rng_state(as_tensor(state.rng_gpu), device)


def _sum_intakes(states: list[IntakeState]) -> IntakeState:
    uses_left = sorted({uses for state in states for uses in state["evicted_by_uses_left"]})
    return IntakeState(
        received=sum(state["received"] for state in states),
        trained=sum(state["trained"] for state in states),
        group_uses=sum(state["group_uses"] for state in states),
        evicted_unused=sum(state["evicted_unused"] for state in states),
        evicted_by_uses_left={
            uses: sum(state["evicted_by_uses_left"].get(uses, 0) for state in states)
            for uses in uses_left
        },
        left=sum(state["left"] for state in states),
    )


def _check_format(state: dict[str, Any]) -> None:
    if "supervised" in state:
        raise ConfigError(
            "run.resume: the checkpoint is of a supervised phase (`finetune`), from which a run "
            "cannot go on; name one of the run itself."
        )
    if state.get("format") != FORMAT:
        raise ConfigError(
            f"run.resume: the checkpoint has format {state.get('format')}, this version reads "
            f"{FORMAT}; continue it with the version that wrote it, or name another run.dir."
        )


def _check_size(state: dict[str, Any], config: Config, trainers: Trainers) -> None:
    saved = len(state["ranks"])
    if saved == trainers.size:
        return
    if not config.trainer.resize_on_resume:
        raise ConfigError(
            f"run.resume: the checkpoint is of {saved} trainers and this run has {trainers.size}; "
            f"set trainer.resize_on_resume=true to go on at the same global batch, or start "
            f"{saved} trainers."
        )
    groups = yaml.safe_load(state["config"])["trainer"]["batch_groups"]
    if groups != config.trainer.batch_groups:
        raise ConfigError(
            "trainer.resize_on_resume keeps the global batch, but trainer.batch_groups was "
            f"{groups} and is {config.trainer.batch_groups}; set it back."
        )


def _frozen_identity(train: TrainStep) -> str:
    return "" if train.model.frozen is None else train.model.frozen.identity


def _check_frozen_teacher(state: dict[str, Any], train: TrainStep) -> None:
    """It is not saved, and another one would teach something else from here on."""
    saved, now = state.get("frozen_teacher", ""), _frozen_identity(train)
    if saved == now:
        return
    # Checkpoints of before there was such a setting have none.
    section = yaml.safe_load(state["config"])["trainer"].get("distillation") or {}
    had = f"with trainer.distillation.teacher={section.get('teacher')}" if saved else "without one"
    what = "is another model, or sees another size, now" if saved and now else "differs"
    raise ConfigError(
        f"run.resume: the checkpoint was written {had}, and the frozen teacher {what}; set "
        "trainer.distillation back, or name another run.dir to start anew."
    )


def _check_shapes(state: dict[str, Any], train: TrainStep, config: Config) -> None:
    networks = {"student": train.model.student, "teacher": train.model.teacher}
    for name, network in networks.items():
        saved = {key: tuple(value.shape) for key, value in state[name].items()}
        wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        if saved != wanted:
            first = next(
                key for key in sorted({*saved, *wanted}) if saved.get(key) != wanted.get(key)
            )
            raise ConfigError(
                f"run.resume: the checkpoint's {name} differs from the settings' at {first} "
                f"({saved.get(first, 'missing')} there, {wanted.get(first, 'missing')} here); "
                f"{_changed_settings(state['config'], config)}name another run.dir to start anew."
            )


def _changed_settings(saved_yaml: str, config: Config) -> str:
    """Which settings of the model changed, as half a sentence; empty when none is known."""
    saved = yaml.safe_load(saved_yaml).get("trainer", {})
    now = config.model_dump(mode="json")["trainer"]
    names = ("backbone", "backbone_args", "blocks", "crops", "contrastive", "mim")
    changed = [f"trainer.{name}" for name in names if saved.get(name) != now.get(name)]
    if changed == ["trainer.crops"]:
        return "set trainer.resample_on_resume=true to go on at another size, or "
    return f"set back {', '.join(changed)}, or " if changed else ""
