"""Entry of the supervised phase: read the run, build, restore, train, close.

RUN's checkpoint -> settings, backbone -> loop -> RUN2: checkpoints, metrics, supervised.json
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml

from online_synclr.config import Config, ConfigError, load_config, resolved_yaml
from online_synclr.config.supervised_checks import check_supervised
from online_synclr.launch import cpu_threads, num_gpus
from online_synclr.run_folder import RunFolder, write_durably
from online_synclr.topology import RankEnv, gpu_of
from trainer import checkpoint_files
from trainer.checkpoint import CONFIG_NAME
from trainer.checkpoint_reading import read_everywhere
from trainer.checkpoint_search import newest_usable
from trainer.distributed import CPU_GROUP_TIMEOUT, Trainers, select_device
from trainer.stop import StopRequest, stop_on_signals
from trainer.supervised import saving
from trainer.supervised.folder import LabelledFolder, read_folder
from trainer.supervised.loading import PictureError, Share
from trainer.supervised.log import PhaseLog
from trainer.supervised.network import build_classifier, load_backbone
from trainer.supervised.phase import NotFiniteError, PhaseParts, SupervisedPhase, say
from trainer.supervised.step import SupervisedStep

EXIT_FAILED = 1
EXIT_WRONG_DATA = 2
SILENT_RANK_S = 2.0
"""torchrun ends every rank when one has failed, and the one that speaks may be the last."""
JOIN_TIMEOUT = timedelta(minutes=10)
SUMMARY_NAME = "supervised.json"


def run_phase(run: Path, overrides: Sequence[str], env: RankEnv) -> int:
    """Play this rank's part of the phase; returns the exit code.

    0: all steps are done, or a stop was asked for and the phase can be continued.

    Raises:
        ConfigError: the run, the pictures or a setting cannot be used; nothing was written.
    """
    checkpoint = find_checkpoint(run)
    config = load_config(checkpoint / CONFIG_NAME, overrides)
    check_supervised(config, env.world_size)
    if config.run.dir.resolve() in (run.resolve(), checkpoint.parent.parent.resolve()):
        raise ConfigError(f"finetune: --out {config.run.dir} is the run itself; name another one.")
    images = read_folder(config.trainer.supervised.folder)
    with stop_on_signals(config.run.grace_s) as stop:
        trainers = _join(config, env)
        try:
            code = _run(config, checkpoint, images, trainers, stop)
        except PictureError as error:
            say(str(error))
            return EXIT_WRONG_DATA
        except (NotFiniteError, OSError) as error:
            # The same on all ranks, or the first one's own.
            if trainers.is_first:
                say(str(error))
            else:
                stop.wait(SILENT_RANK_S)
            return EXIT_FAILED
        # Not on the way of an error: others may be inside a collective, and torchrun ends them.
        trainers.close()
    return code


def find_checkpoint(run: Path) -> Path:
    """The checkpoint that a run's folder, or a checkpoint's own, means.

    Raises:
        ConfigError: there is none.
    """
    run = run.expanduser()
    if (run / checkpoint_files.FILE_NAME).is_file():
        return run
    newest = checkpoint_files.latest(run)
    if newest is None:
        raise ConfigError(
            f"finetune: there is no complete checkpoint in {run}; name the folder of a run that "
            "has trained, or one of its checkpoints."
        )
    return newest


def _run(
    config: Config,
    checkpoint: Path,
    images: LabelledFolder,
    trainers: Trainers,
    stop: StopRequest,
) -> int:
    with ExitStack() as stack:
        newest = _set_up(config, stack) if trainers.is_first else None
        source = read_everywhere(checkpoint if trainers.is_first else None, trainers)
        assert source is not None
        train = _build(config, source, images, trainers)
        began = _began(config, source, images)
        before = read_everywhere(newest, trainers)
        start = 0
        if before is None:
            train.start_average()
        else:
            start = saving.restore(before, train, began)
        log = None
        if trainers.is_first:
            write_durably(RunFolder(config.run.dir).config, resolved_yaml(config))
            log = PhaseLog(config, start)
            stack.callback(log.close)
            _introduce(config, images, trainers, start)
        stop.training_begins()
        phase = SupervisedPhase(
            PhaseParts(
                config=config,
                trainers=trainers,
                images=images,
                share=_share(config, trainers),
                train=train,
                began=began,
                source=source,
                log=log,
                stop_requested=lambda: stop.requested,
            ),
            start_step=start,
        )
        done = phase.run()
        if trainers.is_first:
            _close(config, phase, began, images, done=done)
    return 0


def _join(config: Config, env: RankEnv) -> Trainers:
    """All ranks of torchrun train; without torchrun there is one."""
    found = num_gpus(config)
    if 0 < found < env.local_world_size:
        raise ConfigError(
            f"finetune: {env.local_world_size} ranks would share {found} GPUs; launch with "
            f"--nproc_per_node={found}, or set run.device=cpu."
        )
    device = select_device(gpu_of(env.local_rank, found), cpu_threads(config, env))
    if env.world_size == 1:
        return Trainers(index=0, size=1, device=device)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        timeout=JOIN_TIMEOUT,
        device_id=device if on_gpu else None,
    )
    return Trainers(
        index=env.rank,
        size=env.world_size,
        device=device,
        device_group=dist.group.WORLD,
        cpu_group=dist.new_group(backend="gloo", timeout=CPU_GROUP_TIMEOUT),
    )


def _set_up(config: Config, stack: ExitStack) -> Path | None:
    """The first rank makes and locks the folder; the checkpoint that the phase goes on from."""
    folder = RunFolder(config.run.dir)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    stack.enter_context(folder.lock(patience_s=config.run.grace_s))
    return newest_usable(config.run.dir, say)


def _build(
    config: Config, source: dict[str, Any], images: LabelledFolder, trainers: Trainers
) -> SupervisedStep:
    settings, seed = config.trainer.supervised, config.run.seed
    student, ema = (
        build_classifier(config.trainer, len(images.classes), run_seed=seed, drop_path=drop_path)
        for drop_path in (settings.drop_path, 0.0)
    )
    load_backbone(student, source[settings.network])
    try:
        return SupervisedStep(config, student, ema, trainers)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _began(config: Config, source: dict[str, Any], images: LabelledFolder) -> dict[str, Any]:
    """What the phase is the continuation of: a network after so many steps of which run."""
    of_run = yaml.safe_load(source["config"])
    network = config.trainer.supervised.network
    origin = f"{of_run['run']['dir']}, step {source['step']}, {network}"
    return {"classes": list(images.classes), "source": origin}


def _share(config: Config, trainers: Trainers) -> Share:
    settings = config.trainer.supervised
    return Share(
        rank=trainers.index,
        num_ranks=trainers.size,
        batch_images=settings.batch_images,
        side=settings.load_px or round(config.trainer.crops.global_px * 256 / 224),
        seed=config.run.seed,
        workers=settings.workers,
        pin_memory=trainers.device.type == "cuda",
    )


def _introduce(config: Config, images: LabelledFolder, trainers: Trainers, start: int) -> None:
    settings = config.trainer.supervised
    val = "no val/" if images.val is None else f"{len(images.val)} in val/"
    if start >= settings.steps:
        say(f"{config.run.dir} holds a finished phase; raise trainer.supervised.steps to go on")
        return
    print(
        f"{config.trainer.backbone}, {settings.network} of the run; {len(images.train)} pictures "
        f"of {len(images.classes)} classes, {val}; steps {start} to {settings.steps} of "
        f"{settings.batch_images} pictures on {trainers.size} x {trainers.device.type}",
        flush=True,
    )


def _close(
    config: Config,
    phase: SupervisedPhase,
    began: dict[str, Any],
    images: LabelledFolder,
    *,
    done: bool,
) -> None:
    path = config.run.dir / SUMMARY_NAME
    summary = {
        "steps": phase.step,
        "images_seen": phase.step * config.trainer.supervised.batch_images,
        "images": len(images.train),
        **began,
        "figures": phase.figures,
    }
    write_durably(path, json.dumps(summary, indent=1) + "\n")
    if done:
        print(f"{config.run.dir}: evaluate and export read it like a run", flush=True)
    else:
        say(f"stopped after step {phase.step}; the same command goes on")
