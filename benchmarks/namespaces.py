"""Two network namespaces joined by a virtual cable: two hosts, as far as the kernel's network goes.

Needs root and the `ip` program (iproute2); `tc` where the cable has a rate.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True)
class Cable:
    """Where its two ends are: namespaces (empty: the one we are in) and the near end's address."""

    near: str = ""
    far: str = ""
    host: str = "127.0.0.1"


@contextlib.contextmanager
def cable(rate: str = "") -> Iterator[Cable]:
    """A veth pair between two fresh namespaces, removed afterwards.

    Args:
        rate: of both directions, in tc's words (`10gbit`); empty: as fast as it goes.

    Raises:
        PermissionError: this user may not make namespaces.
    """
    if os.geteuid() != 0:
        raise PermissionError("network namespaces need root; leave out --veth")
    name = f"osyn{os.getpid()}"
    near, far = f"{name}a", f"{name}b"
    try:
        for space in (near, far):
            _ip("netns", "add", space)
        _ip(
            "-n",
            near,
            "link",
            "add",
            "veth0",
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            far,
        )
        for space, address in ((near, "10.199.0.1"), (far, "10.199.0.2")):
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                _ip("-n", space, "link", "set", device, "up")
            if rate:
                shape = ["root", "tbf", "rate", rate, "burst", "4mb", "latency", "5ms"]
                _ip("netns", "exec", space, "tc", "qdisc", "add", "dev", "veth0", *shape)
        yield Cable(near, far, "10.199.0.1")
    finally:
        for space in (near, far):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def enter(namespace: str) -> None:
    """Have this thread, and those that it starts, use that namespace's network; empty: stay."""
    if not namespace:
        return
    with Path("/var/run/netns", namespace).open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"namespace {namespace} cannot be entered")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
