"""The processes of a benchmark, found by a mark in their environment whoever their parents are."""

import contextlib
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from online_synclr.paths import PROJECT_DIR

VARIABLE: Final = "ONLINE_SYNCLR_BENCHMARK"


@dataclass(frozen=True)
class Mark:
    """A value of `VARIABLE` that only this benchmark's processes have."""

    value: str = field(default_factory=lambda: secrets.token_hex(8))

    def environment(self) -> dict[str, str]:
        """This process's environment with the mark, and a path on which this project is found."""
        return {
            **os.environ,
            VARIABLE: self.value,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(PROJECT_DIR),
        }

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those alive whose command line has every word."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(VARIABLE) != self.value:
                    continue
                line = process.cmdline()
                if all(word in line for word in words):
                    found.append(process)
        return found


@dataclass(frozen=True)
class Litter:
    """What a run may leave on a machine: Unix sockets' folders and shared memory."""

    sockets: frozenset[str]
    shared_memory: frozenset[str]

    @classmethod
    def now(cls) -> "Litter":
        """What lies there now."""
        sockets = Path(tempfile.gettempdir()).glob("osynclr-*")
        return cls(frozenset(map(str, sockets)), frozenset(os.listdir("/dev/shm")))

    def new_since(self, before: "Litter") -> list[str]:
        """What was not there before."""
        return sorted(self.sockets - before.sockets) + sorted(
            self.shared_memory - before.shared_memory
        )
