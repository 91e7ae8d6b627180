"""Where a generator outside torchrun finds the job: an address, or the job's run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from online_synclr.config import ConfigError
from online_synclr.run_folder import RunFolder

_SCHEMES = ("tcp://", "ipc://")


class Bootstrap(Protocol):
    """One trainer's address is enough: it tells those of the others."""

    def address(self) -> str | None:
        """A trainer's address as known now; None while there is none."""

    def finished(self, run_id: str) -> str | None:
        """How that run ended for good, where this can be known without any trainer."""


@dataclass(frozen=True)
class FixedAddress:
    """An address that stays the same over the job's restarts (`stream.port`)."""

    url: str

    def address(self) -> str | None:
        """That address."""
        return self.url

    def finished(self, run_id: str) -> str | None:
        """An address alone does not tell."""
        return None


@dataclass(frozen=True)
class FromRunFolder:
    """The newest attempt's address, from the run folder on this machine (or a shared disk)."""

    folder: Path

    def address(self) -> str | None:
        """As the newest attempt wrote it."""
        try:
            return str(self._known()["addresses"][0])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def finished(self, run_id: str) -> str | None:
        """As its last attempt wrote it."""
        try:
            known = self._known()
            return str(known["finished"]) if known["run_id"] == run_id else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _known(self) -> dict[str, Any]:
        text = RunFolder(self.folder).addresses.read_text(encoding="utf-8")
        known: dict[str, Any] = json.loads(text)
        return known


def find_bootstrap(text: str) -> Bootstrap:
    """What `--connect` names: tcp://HOST:PORT, HOST:PORT, ipc://PATH, or a run folder.

    Raises:
        ConfigError: none of these.
    """
    if text.startswith(_SCHEMES):
        url = text
    elif Path(text).expanduser().is_dir():
        return FromRunFolder(Path(text).expanduser())
    else:
        url = f"tcp://{text}"
    port = url.rpartition(":")[2]
    if url.startswith("tcp://") and not (port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(
            f"--connect={text} is neither an address like tcp://10.0.0.1:5555 nor a run folder "
            "of this machine; a trainer's address stands in addresses.json of the run folder."
        )
    return FixedAddress(url)
