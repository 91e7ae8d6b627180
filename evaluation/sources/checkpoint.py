"""A run's checkpoint, read as a resuming run reads it: whole, checked, and as data only."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
import yaml
from pydantic import ValidationError

from evaluation.errors import EvaluationError
from evaluation.sources.plain_vit import PlainViT, plain_vit
from online_synclr.config import Config
from online_synclr.run_folder import RunFolder
from trainer import checkpoint_files

Network = Literal["student", "teacher"]
NETWORKS: Final[tuple[Network, ...]] = ("student", "teacher")
_VIT: Final = "backbone.vit."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """folder: its own. step: steps done before it. config: of the attempt that wrote it.

    state: everything in it, mapped from its file.
    """

    folder: Path
    step: int
    config: Config
    state: dict[str, Any] = field(repr=False)

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it, if it lies where that run put it."""
        return self.folder.parent.parent

    def vit(self, network: Network) -> PlainViT:
        """One of its networks' backbones.

        Raises:
            EvaluationError: it cannot be made from the settings.
        """
        return plain_vit(self.config.trainer, self.weights(network))

    def weights(self, network: Network) -> dict[str, torch.Tensor]:
        """One of its networks' backbones' weights, by timm's names; the mask token is left out.

        Raises:
            EvaluationError: it has none.
        """
        found = {
            name.removeprefix(_VIT): value
            for name, value in self.state.get(network, {}).items()
            if name.startswith(_VIT)
        }
        if not found:
            raise EvaluationError(
                f"{self.folder} has no {network}; name one of {', '.join(NETWORKS)} behind a colon."
            )
        return found


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return RunFolder(folder).checkpoints.is_dir() or RunFolder(folder).config.is_file()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint's, complete or not."""
    return (folder / checkpoint_files.FILE_NAME).is_file()


def find_checkpoint(folder: Path, step: int | None = None) -> Path:
    """The checkpoint that a run's or a checkpoint's folder means: its newest, or that of a step.

    Raises:
        EvaluationError: there is none.
    """
    if is_checkpoint(folder):
        if step not in (None, _step_of(folder)):
            raise EvaluationError(
                f"{folder} is one checkpoint; name its run's folder to choose step {step}."
            )
        return folder
    try:
        found = checkpoint_files.complete_checkpoints(RunFolder(folder).checkpoints)
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be read ({error.strerror}).") from None
    if not found:
        raise EvaluationError(
            f"{folder} has no complete checkpoint yet; one is written every "
            "trainer.checkpoint.every_steps steps and at the end."
        )
    if step is None:
        return found[-1]
    for path in found:
        if checkpoint_files.step_of(path) == step:
            return path
    steps = ", ".join(str(checkpoint_files.step_of(path)) for path in found)
    raise EvaluationError(f"{folder} has no checkpoint of step {step}; it has {steps}.")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint whose every byte is as it was written.

    Raises:
        EvaluationError: it is not complete, damaged or of another version.
    """
    try:
        if not checkpoint_files.is_complete(folder):
            raise EvaluationError(f"{folder} is not a complete checkpoint; name another one.")
        if not checkpoint_files.is_intact(folder):
            raise EvaluationError(f"{folder} is damaged; name another checkpoint of its run.")
        state = checkpoint_files.parse_file(folder / checkpoint_files.FILE_NAME)
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be read ({error}).") from None
    if not isinstance(state, dict) or not isinstance(state.get("config"), str):
        raise EvaluationError(f"{folder} is no checkpoint of this project; name another one.")
    return Checkpoint(
        folder=folder, step=int(state["step"]), config=_config_of(folder, state), state=state
    )


def _config_of(folder: Path, state: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(yaml.safe_load(state["config"]))
    except (ValidationError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"{folder} has settings of another version ({first}); read it with the version that "
            "wrote it."
        ) from None


def _step_of(folder: Path) -> int | None:
    try:
        return checkpoint_files.step_of(folder)
    except ValueError:
        return None
