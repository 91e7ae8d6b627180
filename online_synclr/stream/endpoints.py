"""Where trainers listen: a Unix socket in a folder of their own, or TCP on loopback."""

import contextlib
import errno
import ipaddress
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq

from online_synclr.stream.errors import StreamError

MAX_IPC_PATH: Final = 107
"""A Unix socket's path is at most so many bytes, less its terminating zero."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to bind. `folder`: removed by `remove()`, ipc only."""

    url: str
    folder: Path | None = None

    def remove(self) -> None:
        """Remove the socket's folder; after the socket is closed."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def ipc_endpoint(parent: Path | None = None) -> Endpoint:
    """A Unix socket in a fresh folder of mode 0700 under `parent` (none: the temporary folder).

    Raises:
        StreamError: the path is too long for a Unix socket.
    """
    # mkdtemp makes the folder with mode 0700 and never reuses one.
    folder = Path(tempfile.mkdtemp(prefix="osynclr-", dir=parent))
    path = folder / "groups"
    if len(bytes(path)) >= MAX_IPC_PATH:
        folder.rmdir()
        raise StreamError(
            f"the Unix socket's path {path} exceeds {MAX_IPC_PATH - 1} bytes; set TMPDIR to a "
            "shorter folder or stream.transport to tcp"
        )
    return Endpoint(f"ipc://{path}", folder)


def tcp_endpoint(host: str = "127.0.0.1", port: int = 0) -> Endpoint:
    """TCP on a loopback address; port 0 takes any free one.

    Raises:
        StreamError: `host` is not a loopback address.
    """
    address = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(address):
        raise StreamError(
            f"stream.host is {host}: listening beyond loopback needs CURVE keys, which this "
            "version cannot make; set it to 127.0.0.1"
        )
    shown = f"[{address}]" if ":" in address else address
    return Endpoint(f"tcp://{shown}:{port or '*'}")


def make_endpoint(transport: str, host: str, port: int, trainer_index: int) -> Endpoint:
    """The endpoint of one trainer: "ipc", or "tcp" at `port + trainer_index` (0: any)."""
    if transport == "ipc":
        return ipc_endpoint()
    return tcp_endpoint(host, port + trainer_index if port else 0)


def bind(socket: zmq.Socket[Any], endpoint: Endpoint) -> str:
    """Bind and return the address to connect to.

    Raises:
        StreamError: the port is taken or the address cannot be used.
    """
    socket.setsockopt(zmq.IPV6, int("[" in endpoint.url))
    try:
        socket.bind(endpoint.url)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise StreamError(
                f"{endpoint.url} is in use by another program; set stream.port to a free port, "
                "or to 0 for any"
            ) from error
        raise StreamError(f"cannot listen on {endpoint.url}: {error.strerror}") from error
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
