"""Where trainers listen: a Unix socket in a folder of their own, or TCP under keys."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq

from online_synclr.config.checks import is_loopback
from online_synclr.stream.errors import StreamError
from online_synclr.stream.socket_folder import SocketFolder, remove_abandoned

MAX_IPC_PATH: Final = 107
"""A Unix socket's path is at most so many bytes, less its terminating zero."""


_WILDCARDS: Final = ("0.0.0.0", "[::]")
_ANYWHERE: Final = "192.0.2.1"
"""An address for documentation (RFC 5737): on the way to anywhere."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to bind. `held`: its folder, removed by `remove()`, ipc only."""

    url: str
    held: SocketFolder | None = None

    @property
    def folder(self) -> Path | None:
        """Where the socket is; None with tcp."""
        return None if self.held is None else self.held.path

    def remove(self) -> None:
        """Remove the socket's folder, and those that killed processes of this user left here."""
        if self.held is not None:
            self.held.remove()
            remove_abandoned(self.held.path.parent)


def ipc_endpoint(parent: Path | None = None) -> Endpoint:
    """A Unix socket in a fresh folder of mode 0700 under `parent` (none: the temporary folder).

    Raises:
        StreamError: the path is too long for a Unix socket.
    """
    remove_abandoned(parent)
    held = SocketFolder(parent)
    path = held.path / "groups"
    if len(bytes(path)) >= MAX_IPC_PATH:
        held.remove()
        raise StreamError(
            f"the Unix socket's path {path} exceeds {MAX_IPC_PATH - 1} bytes; set TMPDIR to a "
            "shorter folder or stream.transport to tcp"
        )
    return Endpoint(f"ipc://{path}", held)


def tcp_endpoint(host: str = "127.0.0.1", port: int = 0, *, guarded: bool = False) -> Endpoint:
    """TCP; port 0 takes any free one. `guarded`: the socket will have keys.

    Raises:
        StreamError: `host` is not a loopback address, and there are no keys.
    """
    address = "127.0.0.1" if host == "localhost" else host
    if not guarded and not is_loopback(address):
        raise StreamError(
            f"stream.host is {host}: listening beyond loopback needs CURVE keys; set stream.keys"
        )
    shown = f"[{address}]" if ":" in address else address
    return Endpoint(f"tcp://{shown}:{port or '*'}")


def make_endpoint(
    transport: str, host: str, port: int, trainer_index: int, *, guarded: bool = False
) -> Endpoint:
    """The endpoint of one trainer: "ipc", or "tcp" at `port + trainer_index` (0: any)."""
    if transport == "ipc":
        return ipc_endpoint()
    return tcp_endpoint(host, port + trainer_index if port else 0, guarded=guarded)


def reachable(address: str, advertised_host: str = "") -> str:
    """The address to give to others: the host advertised, and for a wildcard's one of this
    machine's; the port is the same."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if address.startswith("ipc://") or not colon:
        return address
    if not advertised_host and host not in _WILDCARDS:
        return address
    found = advertised_host or _own_address()
    return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"


def _own_address() -> str:
    """The address this machine has towards others; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ANYWHERE, 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def bind(listener: zmq.Socket[Any], endpoint: Endpoint) -> str:
    """Bind and return the address to connect to.

    Raises:
        StreamError: the port is taken or the address cannot be used.
    """
    listener.setsockopt(zmq.IPV6, int("[" in endpoint.url))
    try:
        listener.bind(endpoint.url)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise StreamError(
                f"{endpoint.url} is in use by another program; set stream.port to a free port, "
                "or to 0 for any"
            ) from error
        raise StreamError(f"cannot listen on {endpoint.url}: {error.strerror}") from error
    return str(listener.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")
