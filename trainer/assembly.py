"""Builds a trainer from its settings: the stream's end, the model, the loop around both."""

import contextlib
import json
import sys
from dataclasses import dataclass

import torch

from online_synclr.config import Config, ConfigError
from online_synclr.monitor.monitor import Monitor
from online_synclr.monitor.roles import RunRoles
from online_synclr.monitor.waits import WaitClock
from online_synclr.run_folder import write_durably
from online_synclr.run_keys import run_keys
from online_synclr.seeds import derive_seed
from online_synclr.stream.endpoints import make_endpoint, reachable
from online_synclr.stream.receiver import FIRST_PROGRESS, Receiver
from online_synclr.topology import transport_of
from trainer import checkpoint
from trainer.agreement import Rounds
from trainer.batch import BatchMaker
from trainer.checkpoint import Restored
from trainer.collectives import gather_bytes
from trainer.distillation.teacher import FrozenTeacher
from trainer.distributed import Trainers
from trainer.figures import Figures
from trainer.first_trainer import FirstTrainer
from trainer.generator_watch import GONE_SILENCES, GeneratorWatch, num_serving
from trainer.history import History, look_back
from trainer.initial_weights import initialise
from trainer.intake import Intake, build_intake
from trainer.ledger import open_ledger
from trainer.loop import LoopParts, TrainLoop
from trainer.objective.model import build_model
from trainer.pinning import pin
from trainer.probes import Probes
from trainer.reporter import Reporter
from trainer.role import TrainerRole
from trainer.share_guide import ShareGuide, build_share_guide, may_change
from trainer.shared_knn import build_shared_knn
from trainer.start import Start
from trainer.starvation import Starvation
from trainer.step import TrainStep
from trainer.stop import StopRequest
from trainer.writer import CheckpointWriter


@dataclass(frozen=True, kw_only=True)
class StreamEnd:
    """This trainer's end of the stream and what it feeds."""

    receiver: Receiver
    intake: Intake
    watch: GeneratorWatch


@dataclass(frozen=True, kw_only=True)
class Built:
    """A trainer that is ready to train. `monitor` is trainer 0's; None elsewhere."""

    parts: LoopParts
    loop: TrainLoop
    history: History
    monitor: Monitor | None


def start_stream(config: Config, role: TrainerRole) -> StreamEnd:
    """Listen, publish the address, wait until every trainer has published its own.

    Raises:
        StreamError: the address is taken, or the limiter's settings contradict each other.
    """
    intake = build_intake(
        config,
        local_batch=config.trainer.batch_groups // role.num_trainers,
        seed=derive_seed("pool", config.run.seed, role.incarnation, role.trainer_index),
    )
    receiver = _make_receiver(config, role, intake)
    receiver.start()
    address = reachable(receiver.address, config.stream.advertise)
    role.rendezvous.publish_address(role.trainer_index, address)
    addresses = role.rendezvous.await_addresses(role.num_trainers)
    receiver.set_addresses(addresses)
    if role.is_first:
        known = {"run_id": role.run_id, "incarnation": role.incarnation, "addresses": addresses}
        write_durably(role.folder.addresses, json.dumps(known, indent=1) + "\n")
    serving = num_serving(
        config,
        num_generators=len(role.roster.generators),
        num_trainers=role.num_trainers,
        trainer=role.trainer_index,
    )
    others = config.topology.await_joiners
    watch = GeneratorWatch(
        receiver,
        serving,
        others_may_join=others,
        gone_after_s=GONE_SILENCES * config.stream.silence_s,
    )
    return StreamEnd(receiver=receiver, intake=intake, watch=watch)


def _make_receiver(config: Config, role: TrainerRole, intake: Intake) -> Receiver:
    stream, images = config.stream, config.images
    one_host = role.roster.one_host
    transport, keys = transport_of(stream, one_host=one_host), run_keys(config, one_host=one_host)
    guarded = keys is not None
    return Receiver(
        make_endpoint(transport, stream.host, stream.port, role.trainer_index, guarded=guarded),
        role.run_id,
        intake,
        image_shape=(images.per_caption, 3, images.send_px, images.send_px),
        incarnation=role.incarnation,
        num_launched=len(role.roster.generators),
        trainer_index=role.trainer_index,
        credits_per_generator=stream.credits_per_generator,
        silence_s=stream.silence_s,
        max_group_bytes=stream.max_group_bytes,
        io_threads=stream.io_threads,
        keys=keys,
        shared_memory_bytes=stream.shared_memory_bytes if stream.shared_memory == "auto" else 0,
        say=lambda text: _say(role, text),
        progress=None if may_change(config, role.folder.share_schedule) else FIRST_PROGRESS,
    )


def _say(role: TrainerRole, text: str) -> None:
    # From other threads, which must not end because nobody reads this any more.
    with contextlib.suppress(OSError):
        print(f"online_synclr: trainer {role.trainer_index}: {text}", file=sys.stderr, flush=True)


def build_loop(
    start: Start, role: TrainerRole, trainers: Trainers, stream: StreamEnd, stop: StopRequest
) -> Built:
    """Build the model, restore it, and put the loop around it. Waits for every trainer.

    Raises:
        ConfigError: the model cannot be built, or the checkpoint, the initial weights or the kNN
            folder cannot be used.
    """
    config = start.config
    pin_pool(role, trainers, stream.intake)
    path = start.checkpoint(role) if role.is_first else None
    train = build_step(config, role, trainers)
    restored = checkpoint.restore(
        path,
        config=config,
        train=train,
        intake=stream.intake,
        trainers=trainers,
        say=lambda text: _say(role, text),
    )
    if restored.step == 0:
        initialise(train.model, config, trainers, lambda text: _say(role, text))
    history = look_back(role, restored, lambda text: _say(role, text))
    ledger = open_ledger(
        config,
        role,
        stream.intake,
        resumed_step=restored.step,
        say=lambda text: _say(role, text),
    )
    first: FirstTrainer | None = None
    guide = build_share_guide(
        config,
        trainers,
        stream.receiver.announce_progress,
        schedule_file=role.folder.share_schedule,
        say=lambda text: first.say(text) if first is not None else None,
        step=restored.step,
    )
    waits = WaitClock()
    probes = Probes(
        config,
        trainers,
        waits=waits,
        knn=build_shared_knn(config, train.model.teacher, trainers),
        log=lambda step, values: first.log_probe(step, values) if first is not None else None,
    )
    train.on_teacher = probes.take
    reporter = Reporter(
        trainers=trainers,
        intake=stream.intake,
        receiver=stream.receiver,
        watch=stream.watch,
        meter=train.meter,
        waits=waits,
        before=restored.totals,
        ledger=ledger,
        guide=guide,
        probes=probes,
    )
    monitor = _build_monitor(config, role, restored) if role.is_first else None
    if monitor is not None:
        first = _build_first(config, stream, monitor, history, guide)
    parts = LoopParts(
        config=config,
        role=role,
        trainers=trainers,
        intake=stream.intake,
        rounds=_build_rounds(stream, trainers, waits, stop),
        waits=waits,
        batches=build_batches(config, role, trainers),
        train=train,
        reporter=reporter,
        ledger=ledger,
        writer=CheckpointWriter(
            config,
            role,
            train=train,
            intake=stream.intake,
            trainers=trainers,
            reporter=reporter,
            ledger=ledger,
            restored=restored,
            saves=history.saves,
            say=first.say if first is not None else lambda text: None,
        ),
        starvation=build_starvation(config),
        watch=stream.watch,
        guide=guide,
        first=first,
        probes=probes,
    )
    loop = TrainLoop(parts, start_step=restored.step)
    return Built(parts=parts, loop=loop, history=history, monitor=monitor)


def pin_pool(role: TrainerRole, trainers: Trainers, intake: Intake) -> None:
    """Have a GPU read batches where groups landed; without that, they are copied once more."""
    if trainers.device.type != "cuda":
        return
    error = pin(intake.memory, trainers.device)
    if error is not None:
        _say(
            role,
            f"the pool's {intake.memory.nbytes} bytes cannot be page-locked ({error}), so batches "
            "are copied once more on their way to the GPU; lower pool.max_bytes",
        )


def build_step(config: Config, role: TrainerRole, trainers: Trainers) -> TrainStep:
    """The model and its optimiser; seeds torch's own generators for this trainer.

    Raises:
        ConfigError: the backbone does not fit the settings.
    """
    # Drop path draws from them: each trainer its own masks, known from the run's seed. A checkpoint
    # that is restored afterwards puts their state back.
    torch.manual_seed(derive_seed("torch", config.run.seed, role.incarnation, role.trainer_index))
    try:
        model = build_model(config.trainer, run_seed=config.run.seed, device=trainers.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if model.frozen is not None:
        _check_same_teacher(model.frozen, trainers)
    return TrainStep(config, model=model, trainers=trainers, incarnation=role.incarnation)


def _check_same_teacher(frozen: FrozenTeacher, trainers: Trainers) -> None:
    """Waits for every trainer: each has read the weights for itself, maybe on another machine."""
    everybodys = gather_bytes(frozen.identity.encode(), trainers.cpu_group)
    other = next((index for index, one in enumerate(everybodys) if one != everybodys[0]), None)
    if other is not None:
        raise ConfigError(
            f"trainer.distillation.teacher: trainers 0 and {other} found different weights under "
            "that name; give all machines the same files."
        )


def build_batches(config: Config, role: TrainerRole, trainers: Trainers) -> BatchMaker:
    """What turns sampled groups into tensors."""
    return BatchMaker(
        images_per_group=config.images_per_group,
        run_seed=config.run.seed,
        trainer_index=role.trainer_index,
        device=trainers.device,
    )


def build_starvation(config: Config) -> Starvation:
    """What the settings ask for when groups are short."""
    trainer = config.trainer
    stop_s = trainer.starvation_stop_s if trainer.on_starvation == "stop" else None
    return Starvation(starve_s=trainer.starve_s, stop_s=stop_s)


def _build_rounds(
    stream: StreamEnd, trainers: Trainers, waits: WaitClock, stop: StopRequest
) -> Rounds:
    return Rounds(
        intake=stream.intake,
        group=trainers.cpu_group,
        waits=waits,
        stop_requested=lambda: stop.requested,
        generators=stream.watch,
        device_busy=trainers.device_busy,
    )


def _build_monitor(config: Config, role: TrainerRole, restored: Restored) -> Monitor:
    roles = RunRoles.from_roster(role.roster, config)
    return Monitor(config, role.run_dir, roles, restored.step)


def _build_first(
    config: Config,
    stream: StreamEnd,
    monitor: Monitor,
    history: History,
    guide: ShareGuide,
) -> FirstTrainer:
    return FirstTrainer(
        config,
        monitor=monitor,
        figures=Figures(
            config,
            history.restored.totals,
            attempts=history.attempts,
            saves=history.saves,
            shares_in_force=guide.in_force,
        ),
        watch=stream.watch,
        start_step=history.restored.step,
    )
