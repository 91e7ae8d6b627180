"""Settings of the supervised phase that cannot work, found without importing torch."""

import os

from online_synclr.config.errors import ConfigError
from online_synclr.config.schema import BUNDLED_CHECK_SET, Config

COMMAND = "python -m online_synclr finetune RUN --data DIR --out RUN2"


def check_no_supervised_phase(config: Config) -> None:
    """A run has no such phase: its generators would idle, each on a GPU of its own.

    Raises:
        ConfigError: the settings ask for one.
    """
    if config.trainer.supervised.folder:
        raise ConfigError(
            "trainer.supervised.folder is for the phase after a run; leave it out here, and when "
            f"the run is done: {COMMAND}."
        )


def check_supervised(config: Config, num_ranks: int) -> None:
    """Refuse what the phase cannot do on so many ranks.

    Raises:
        ConfigError: one sentence that names the key and the mend.
    """
    settings = config.trainer.supervised
    folder = settings.folder
    if not folder:
        raise ConfigError(
            "finetune needs labelled images; give --data DIR (<class>/<image>, or so below train/ "
            "and val/)."
        )
    if folder != BUNDLED_CHECK_SET and not os.path.isdir(folder):
        raise ConfigError(f"trainer.supervised.folder: there is no folder {folder}.")
    if settings.batch_images % num_ranks:
        raise ConfigError(
            f"trainer.supervised.batch_images={settings.batch_images} does not divide over "
            f"{num_ranks} ranks; make it a multiple of {num_ranks}."
        )
    if settings.warmup_steps > settings.steps:
        raise ConfigError(
            f"trainer.supervised.warmup_steps={settings.warmup_steps} is more than all of its "
            f"steps={settings.steps}; lower it."
        )
    side = config.trainer.crops.global_px
    if settings.load_px is not None and settings.load_px < side:
        raise ConfigError(
            f"trainer.supervised.load_px={settings.load_px} is smaller than the crops of "
            f"trainer.crops.global_px={side}; set it to {side} or more."
        )
