"""Where trainers listen: a Unix socket in a folder of their own, or TCP under keys."""

import errno
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq

from online_synclr.config.checks import is_loopback
from online_synclr.stream.errors import StreamError

MAX_IPC_PATH: Final = 107
"""A Unix socket's path is at most so many bytes, less its terminating zero."""


_WILDCARDS: Final = ("0.0.0.0", "[::]")
_ANYWHERE: Final = "192.0.2.1"
"""An address for documentation (RFC 5737): on the way to anywhere."""


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
