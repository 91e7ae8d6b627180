"""Where an attempt starts, and the sizes that this means.

    trainer 0: checkpoint -> steps done -> the store -> all ranks: Config.at_step

Only runs whose sizes change wait for it: elsewhere the checkpoint is chosen while generators load.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from online_synclr.config import Config
from trainer import checkpoint
from trainer.role import TrainerRole


@dataclass(frozen=True, kw_only=True)
class Start:
    """`config`: the settings in force. `chosen`: whether `path` is trainer 0's choice already."""

    config: Config
    chosen: bool = False
    path: Path | None = None

    def checkpoint(self, role: TrainerRole) -> Path | None:
        """What trainer 0 continues from; None: from scratch.

        Raises:
            ConfigError: see `trainer.checkpoint.choose`.
        """
        return self.path if self.chosen else _choose(self.config, role)


def find_start(config: Config, role: TrainerRole) -> Start:
    """Choose a checkpoint where sizes depend on it; the other trainers wait for trainer 0 then.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """
    if not config.trainer.high_resolution.steps:
        return Start(config=config)
    if not role.is_first:
        return Start(config=config.at_step(role.rendezvous.await_start()))
    path = _choose(config, role)
    step = 0 if path is None else checkpoint.steps_done(path)
    role.rendezvous.publish_start(step)
    if config.trainer.in_high_resolution(step):
        _say(_sizes(config, step))
    return Start(config=config.at_step(step), chosen=True, path=path)


def _choose(config: Config, role: TrainerRole) -> Path | None:
    return checkpoint.choose(config, attempt=role.attempt, say=_say)


def _sizes(config: Config, step: int) -> str:
    now = config.at_step(step)
    return (
        f"high-resolution phase, steps {config.trainer.first_part_steps} to {config.trainer.steps}:"
        f" crops of {now.trainer.crops.global_px} and {now.trainer.crops.local_px} px, pictures "
        f"sent at {now.images.send_px} and rendered at {now.images.render_px} px"
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"online_synclr: trainer 0: {text}", file=sys.stderr, flush=True)
