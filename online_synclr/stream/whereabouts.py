"""Which processes can reach each other's memory: those of one place."""

import os
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")


def whereabouts() -> str:
    """This process's place: its machine's boot and, behind a slash, its PID namespace.

    Empty where the system does not tell, and then it can be compared with none.
    """
    try:
        return f"{_BOOT.read_text().strip()}/{os.stat(_NAMESPACE).st_ino}"
    except OSError:
        return ""


def same_machine(one: str, other: str) -> bool:
    """Whether both places are on one running machine, in different containers perhaps."""
    return bool(one) and one.split("/")[0] == other.split("/")[0]
