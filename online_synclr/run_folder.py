"""The run folder: its files, the run's identity, and the incarnation that makes seeds unique."""

import fcntl
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from online_synclr.config import ConfigError
from online_synclr.disk import sync_folder
from online_synclr.ledger.facts import FOLDER_NAME

INCARNATION_NAME = "incarnation"
LOCK_POLL_S = 0.2
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
"""Names that `write_durably` and the pictures use before they rename."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration of the latest attempt."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line and logged step."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tb"

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, one folder each."""
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        """Pictures of groups for people."""
        return self.root / "samples"

    @property
    def summary(self) -> Path:
        """What the run did, written at its end."""
        return self.root / "summary.json"

    @property
    def logs(self) -> Path:
        """Logs of the processes a run starts beside its ranks."""
        return self.root / "logs"

    @property
    def ledger(self) -> Path:
        """Recipes of the groups trained on, one file a trainer rank and attempt."""
        return self.root / FOLDER_NAME

    @property
    def keys(self) -> Path:
        """The run's own keys, where TCP is used without `stream.keys`."""
        return self.root / "keys"

    @property
    def addresses(self) -> Path:
        """Where the trainers listen; one line each, for generators outside torchrun."""
        return self.root / "addresses.json"

    @property
    def share_schedule(self) -> Path:
        """Written by a person: stands for `captions.share_schedule`, and may change at any time."""
        return self.root / "share_schedule.yaml"

    @property
    def attempts(self) -> Path:
        """One JSON line for each start of the run."""
        return self.root / "attempts.jsonl"

    def create(self) -> None:
        """Make the folder and its sub-folders."""
        for folder in (self.root, self.checkpoints, self.samples, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what dead attempts were about to rename; call it with the lock held."""
        for folder in (self.root, self.samples):
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def run_id(self) -> str:
        """The run's identity: made once, kept by every later attempt."""
        path = self.root / "run_id"
        if not path.exists():
            write_durably(path, secrets.token_hex(8))
        return path.read_text(encoding="utf-8").strip()

    def raise_incarnation(self, above: int = 0) -> int:
        """Count this attempt durably, before any engine starts, and return its number (from 1).

        It is higher than `above`: the incarnation that wrote a checkpoint of another folder.

        A crash at any later moment leaves the higher number behind, so no attempt ever shares
        its seeds with another one.
        """
        path = self.root / INCARNATION_NAME
        previous = int(path.read_text(encoding="utf-8")) if path.exists() else 0
        incarnation = max(previous, above) + 1
        write_durably(path, str(incarnation))
        return incarnation

    def lock(self, patience_s: float = 0.0) -> IO[str]:
        """Hold the folder for this process; the lock goes when the file is closed or it dies.

        Waits up to `patience_s` for whoever holds it: ranks whose torchrun was killed are still
        leaving when the job is started again.

        Raises:
            ConfigError: another run holds it.
        """
        handle = (self.root / "lock").open("w", encoding="utf-8")
        deadline_s = time.monotonic() + patience_s
        while not _try_lock(handle):
            if time.monotonic() >= deadline_s:
                handle.close()
                raise ConfigError(
                    f"run.dir={self.root} is in use by another run; wait for it or name another "
                    "folder."
                )
            time.sleep(LOCK_POLL_S)
        return handle


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def incarnation_of(checkpoint: Path) -> int:
    """The incarnation that wrote a checkpoint (its folder); 0 where it does not say."""
    try:
        return int((checkpoint / INCARNATION_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def write_durably(path: Path, text: str) -> None:
    """Replace a small file so that a crash leaves either the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
