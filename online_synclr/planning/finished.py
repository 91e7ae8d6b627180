"""Rates from what a run has logged, instead of measuring them."""

import json
from collections.abc import Mapping
from pathlib import Path

from online_synclr.config import Config, ConfigError, load_config
from online_synclr.monitor import metrics
from online_synclr.monitor.jsonl import read_jsonl
from online_synclr.monitor.roles import RunRoles
from online_synclr.planning.rates import GeneratorRate, Rates, StepPoint, StepTimes
from online_synclr.run_folder import RunFolder


def rates_of_run(run: Path) -> Rates:
    """What a run's last metrics say of both sides while they did not wait.

    Its trainers' step is known at its own share of the batch; for other shares time is taken as
    proportional to images.

    Raises:
        ConfigError: the folder has no such metrics.
    """
    folder = RunFolder(run)
    config, roles = _settings(folder), _roles(run)
    scalars = _last_capacities(folder)
    # A step of T trainers on B groups is one of a single trainer's share.
    local_images = config.trainer.batch_groups // roles.num_trainers * config.images_per_group
    per_caption = config.images.per_caption
    step = StepPoint(
        num_trainers=max(1, roles.num_trainers // max(1, len(roles.hosts))),
        local_images=local_images,
        step_s=1.0 / scalars[metrics.CAPACITY_STEPS],
        rss_bytes=scalars.get(metrics.MEMORY_TRAINER, 0.0),
        gpu_bytes=scalars.get(metrics.MEMORY_TRAINER_GPU, 0.0),
    )
    captions = scalars.get(metrics.CAPACITY_CAPTIONS)
    return Rates(
        generator=GeneratorRate(
            groups_per_s=scalars[metrics.CAPACITY_GENERATOR] / per_caption,
            render_groups_per_s=scalars[metrics.CAPACITY_RENDERER] / per_caption,
            captions_per_s=captions,
            rss_bytes=scalars.get(metrics.MEMORY_GENERATOR, 0.0),
        ),
        trainer=StepTimes([step]),
        source=f"the run in {run}, {len(roles.generators)}+{roles.num_trainers} ranks, "
        f"step {int(scalars['step'])}",
        notes=(
            "trainers' time is known at that run's share of the batch only; for others it is taken "
            "as proportional to images",
        ),
    )


def config_of_run(run: Path) -> Path:
    """The run's settings.

    Raises:
        ConfigError: there are none.
    """
    path = RunFolder(run).config
    if not path.is_file():
        raise ConfigError(f"--measured={run}: there is no run in that folder; name a run folder.")
    return path


def _settings(folder: RunFolder) -> Config:
    return load_config(config_of_run(folder.root))


def _roles(run: Path) -> RunRoles:
    try:
        return RunRoles.from_dict(json.loads((run / "roles.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--measured={run}: roles.json cannot be read ({error}).") from None


def _last_capacities(folder: RunFolder) -> Mapping[str, float]:
    """The newest record that has them; kNN's for example has not."""
    needed = (metrics.CAPACITY_STEPS, metrics.CAPACITY_GENERATOR, metrics.CAPACITY_RENDERER)
    newest: dict[str, float] | None = None
    try:
        for record in read_jsonl(folder.metrics):
            if all(record.get(name) for name in needed):
                newest = record
    except OSError as error:
        raise ConfigError(
            f"--measured={folder.root}: metrics.jsonl cannot be read ({error.strerror})."
        ) from None
    if newest is not None:
        return newest
    raise ConfigError(
        f"--measured={folder.root}: metrics.jsonl has no capacities, which are logged from ten "
        "seconds after the first step on; name a run that has trained for longer, or leave "
        "--measured out."
    )
