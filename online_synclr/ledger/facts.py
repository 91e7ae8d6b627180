"""What stands in a ledger, and the errors of whoever reads or writes one."""

import hashlib
from pathlib import Path

import msgspec
import pydantic

from online_synclr.config.schema import ImagesConfig
from online_synclr.stream.group import Recipe

FORMAT = 1
FOLDER_NAME = "ledger"


class LedgerError(RuntimeError):
    """A ledger cannot be used; one sentence that says what to change."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first block of every file: whose it is.

    `resumed_step`: steps done when the attempt began; `started_s`: unix time. `images`: the
    settings that rendering depends on, as JSON, so that a ledger can be rendered on its own.
    """

    format: int = FORMAT
    run_id: str
    run_seed: int
    incarnation: int
    trainer: int
    num_trainers: int
    resumed_step: int
    started_s: int
    images: str

    def images_settings(self) -> ImagesConfig:
        """The attempt's `images` section.

        Raises:
            LedgerError: it is of another version.
        """
        try:
            return ImagesConfig.model_validate_json(self.images)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(("images", *map(str, first["loc"])))
            raise LedgerError(
                f"the settings of attempt {self.incarnation} are of another version ({key}: "
                f"{first['msg']}); render its groups with the version that wrote the ledger."
            ) from None

    @property
    def images_fingerprint(self) -> str:
        """Names those settings: 16 hexadecimal digits."""
        return hashlib.blake2b(self.images.encode(), digest_size=8).hexdigest()


class FirstUse(msgspec.Struct, frozen=True):
    """A group's first use. `entry` counts the file's groups from 0.

    `step`: steps done once it was used, so a checkpoint of that step is the first that knows it.
    `time_s`: unix time, whole seconds.
    """

    entry: int
    recipe: Recipe
    step: int
    time_s: int


class UseCount(msgspec.Struct, frozen=True):
    """How often an entry had been used after `step` steps; `left`: it is not in the pool any more.

    Of several about one entry the last holds.
    """

    entry: int
    uses: int
    step: int
    left: bool


def file_name(incarnation: int, trainer: int) -> str:
    """Name of one trainer's file of one attempt."""
    return f"{incarnation:06d}-t{trainer}.ledger"


def ledger_folder(run_or_ledger: Path) -> Path:
    """The ledger of a run folder, or the folder itself where it holds the files."""
    inside = run_or_ledger / FOLDER_NAME
    return inside if inside.is_dir() else run_or_ledger
