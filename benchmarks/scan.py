"""What a run listens on, and who may talk to it there.

    python -m benchmarks.scan

Starts a run with synthetic engines in each way that it can listen, with a generator that joined by
itself where there is TCP, finds every socket its processes listen on, and greets each as ZeroMQ's
protocol does, without a key. A socket of this project answers with its security mechanism. Exits
with 1 if one does that beyond a private folder without CURVE, or if a greeting without keys is let
in.
"""

import json
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import tiny
from benchmarks.marked import Mark
from online_synclr.paths import PROJECT_DIR

START_S: Final = 120.0
ANSWER_S: Final = 5.0
_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
# ZMTP 3.1 (rfc.zeromq.org/spec/37): signature, version, mechanism, as-server, filler.
_GREETING: Final = _SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY: Final = b"\x04\x1c\x05READY" + b"\x0bSocket-Type\x00\x00\x00\x06DEALER"
_TO_VERSION: Final = 11
_COMMAND: Final = 0x04
WAYS: Final = {
    "one host": (),
    "one host, tcp": ("stream.transport=tcp",),
    "several hosts": ("stream.host=0.0.0.0", "stream.keys=KEYS"),
}


@dataclass(frozen=True, order=True)
class Listener:
    """A listening socket. `mechanism`: ZeroMQ's, empty for what speaks something else."""

    where: str
    owner: str
    mechanism: str
    lets_in: bool

    @property
    def private(self) -> bool:
        """A Unix socket in a folder that only its owner may enter."""
        path = Path(self.where)
        return self.where.startswith("/") and not stat.S_IMODE(path.parent.stat().st_mode) & 0o077

    @property
    def ours(self) -> bool:
        """This project has no sockets but ZeroMQ's; torch has none of these."""
        return bool(self.mechanism)

    @property
    def safe(self) -> bool:
        """What the project promises of its own sockets."""
        return not self.ours or self.private or (self.mechanism == "CURVE" and not self.lets_in)


def listeners(mark: Mark) -> list[Listener]:
    """Every socket that the processes of that mark listen on, TCP and Unix."""
    found = set()
    for process in mark.processes():
        with suppress(psutil.Error):
            line = process.cmdline()
            owner = "torchrun" if "torch.distributed.run" in line else line[3]
            for connection in process.net_connections("all"):
                where = _where(connection)
                if where:
                    found.add(_greet(where, owner))
    return sorted(found)


def _where(connection: Any) -> str:
    address: Any = getattr(connection, "laddr", "")
    if getattr(connection, "status", "") == psutil.CONN_LISTEN:
        return f"{address.ip}:{address.port}"
    # psutil tells no state of Unix sockets; those with a path are bound.
    return address if isinstance(address, str) and address.startswith("/") else ""


def _greet(where: str, owner: str) -> Listener:
    """Speak as a ZeroMQ peer without keys; what the other side makes of it."""
    mechanism, lets_in = "", False
    with suppress(OSError), _connected(where) as peer:
        # Its mechanism is told before it knows ours: one that does not fit would end it.
        peer.sendall(_GREETING[:_TO_VERSION])
        greeting = _read(peer, len(_GREETING))
        peer.sendall(_GREETING[_TO_VERSION:])
        if greeting[:1] == b"\xff" and greeting[9:10] == b"\x7f" and len(greeting) == 64:
            mechanism = greeting[12:32].rstrip(b"\0").decode("ascii", "replace")
            peer.sendall(_READY)
            lets_in = _read(peer, 1) == bytes([_COMMAND])
    return Listener(where, owner, mechanism, lets_in)


@contextmanager
def _connected(where: str) -> Iterator[socket.socket]:
    if where.startswith("/"):
        peer = socket.socket(socket.AF_UNIX)
    else:
        peer = socket.socket(socket.AF_INET6 if where.count(":") > 1 else socket.AF_INET)
    with peer:
        peer.settimeout(ANSWER_S)
        host, _, port = where.rpartition(":")
        reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        peer.connect(where if where.startswith("/") else (reach, int(port)))
        yield peer


def _read(peer: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        chunk = peer.recv(num_bytes - len(data))
        if not chunk:
            break
        data += chunk
    return data


def scan(way: str, settings: tuple[str, ...], folder: Path) -> list[Listener]:
    """Start a run that listens so, look, end it."""
    mark, run_dir, keys = Mark(), folder / "run", folder / "keys"

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        with (folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=PROJECT_DIR, env=mark.environment(), stdout=log, stderr=log,
            )  # fmt: skip

    start("online_synclr", "keys", str(keys), "lab").wait()
    told = [setting.replace("KEYS", str(keys)) for setting in settings]
    torchrun = start(
        "torch.distributed.run", "--standalone", "--nproc_per_node=4", "-m", "online_synclr",
        "--config", "configs/demo.yaml", f"run.dir={run_dir}", "topology.trainers=2",
        "topology.generators=2", "trainer.steps=1000000", *tiny.ENGINES, *tiny.TRAINING, *told,
    )  # fmt: skip
    children = [torchrun]
    try:
        address = _await_addresses(run_dir, torchrun, folder)
        if address.startswith("tcp:"):
            own = keys if "stream.keys=KEYS" in settings else run_dir / "keys"
            start("online_synclr", "keys", str(own), "lab").wait()
            key = str(own / "generators" / "lab.key")
            children.append(
                start("online_synclr", "generate", "--connect", address, "--key", key,
                      f"run.dir={folder / 'lab'}", *tiny.ENGINES)
            )  # fmt: skip
        _await_steps(run_dir, torchrun, folder)
        return listeners(mark)
    finally:
        for process in mark.processes():
            with suppress(psutil.Error):
                process.kill()
        for child in children:
            child.wait()


def _await_addresses(run_dir: Path, torchrun: "subprocess.Popen[bytes]", folder: Path) -> str:
    path = run_dir / "addresses.json"
    _await(path.exists, torchrun, folder)
    return str(json.loads(path.read_text())["addresses"][0])


def _await_steps(run_dir: Path, torchrun: "subprocess.Popen[bytes]", folder: Path) -> None:
    path = run_dir / "metrics.jsonl"
    _await(lambda: path.exists() and path.stat().st_size > 0, torchrun, folder)


def _await(reached: Callable[[], bool], torchrun: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not reached():
        if torchrun.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError((folder / "output.log").read_text()[-4000:])
        time.sleep(0.2)


def main() -> int:
    """Run the command; returns the exit code."""
    unsafe = []
    for way, settings in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = scan(way, settings, Path(folder))
            print(f"{way} {' '.join(settings)}")
            for listener in found:
                speaks = f"ZeroMQ, {listener.mechanism}" if listener.ours else "torch's"
                verdict = "in a folder of its owner's" if listener.private else ""
                if listener.ours and not listener.private:
                    verdict = "refuses who has no key" if listener.safe else "LETS ANYBODY IN"
                print(f"  {listener.where:<40} {listener.owner:<16} {speaks:<16} {verdict}")
            unsafe += [listener for listener in found if not listener.safe]
            if not any(listener.ours for listener in found):
                print("  no socket of this project was found: the scan itself is broken")
                return 1
    return 1 if unsafe else 0


if __name__ == "__main__":
    sys.exit(main())
