"""The phase's checkpoints: files as a run's, with a classifier and without projectors.

    student, teacher    backbone.vit.*, classifier.*; the teacher is the average of the student
    config              the run's settings with trainer.supervised and the new run.dir
    supervised          the classes by index, and where the phase began
    totals              the run's own counts: what its backbone had been trained on before

So evaluation and export read them as they read a run's. A run cannot go on from them.
"""

from pathlib import Path
from typing import Any

from online_synclr.config import Config, ConfigError, resolved_yaml
from trainer import checkpoint_files
from trainer.checkpoint import CONFIG_NAME, FORMAT
from trainer.objective.shards import load_weights
from trainer.supervised.step import SupervisedStep


def save(
    folder: Path,
    *,
    config: Config,
    step: int,
    train: SupervisedStep,
    began: dict[str, Any],
    source: dict[str, Any],
) -> None:
    """Save after `step` steps; the first rank alone calls it.

    Args:
        folder: of the checkpoints.
        config: the settings of the phase.
        step: steps done.
        train: the networks and the optimiser.
        began: classes and origin.
        source: state of the run's checkpoint; its counts are handed on.

    Raises:
        OSError: the disk is full or gone; older checkpoints are as before.
    """
    config_yaml = resolved_yaml(config)
    state = {
        "format": FORMAT,
        "step": step,
        "config": config_yaml,
        "student": train.student.state_dict(),
        "teacher": train.ema.state_dict(),
        "optimizer": train.optimizer.state_dict(),
        "supervised": began,
        "totals": source["totals"],
    }
    checkpoint_files.write_checkpoint(folder, step, state, {CONFIG_NAME: config_yaml})
    checkpoint_files.prune(folder, config.trainer.checkpoint.keep)


def restore(state: dict[str, Any], train: SupervisedStep, began: dict[str, Any]) -> int:
    """Take a phase up again; returns the steps done.

    Raises:
        ConfigError: it is a run's own checkpoint, or the phase began elsewhere or with other
            classes.
    """
    saved = state.get("supervised")
    if saved is None:
        raise ConfigError(
            "finetune: --out is the folder of a run with checkpoints of its own; name another one."
        )
    for key, what in (("classes", "other classes"), ("source", "another checkpoint or network")):
        if saved[key] != began[key]:
            raise ConfigError(
                f"finetune: --out holds a phase that began with {what} ({_short(saved[key])} "
                f"there, {_short(began[key])} here); name another folder to begin anew."
            )
    load_weights(train.student, state["student"])
    load_weights(train.ema, state["teacher"])
    train.optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _short(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
