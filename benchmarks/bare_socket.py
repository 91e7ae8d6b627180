"""What a TCP socket does without any of the stream: as it is, checked, under TLS, or sealed."""

import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.stamped import WARM_UP_GROUPS, Shape
from benchmarks.synthetic_pictures import make_images
from benchmarks.two_processes import Moved, SenderProcess, Stopwatch, moved

BUFFERS = 64
"""Groups that a bare socket's receiver has room for, used in turn: larger than the caches."""

DIGEST_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16


@dataclass(frozen=True)
class Bare:
    """A bare socket: how it is checked, the file of its TLS certificate or an AES key, if any."""

    checked: bool = False
    certificate: Path | None = None
    aes_key: bytes | None = None

    def listener_side(self, accepted: socket.socket) -> socket.socket:
        """The receiver's socket, handshake done."""
        if self.certificate is None:
            return accepted
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate)
        return context.wrap_socket(accepted, server_side=True)

    def sender_side(self, connected: socket.socket) -> socket.socket:
        """The sender's socket, handshake done: only that certificate is trusted."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.certificate is None:
            return connected
        context = ssl.create_default_context(cafile=str(self.certificate))
        return context.wrap_socket(connected, server_hostname="bench")


def bare_rate(sender: SenderProcess, bare: Bare, shape: Shape, num_groups: int, host: str) -> Moved:
    """Over a bare socket."""
    total, num_bytes = num_groups + WARM_UP_GROUPS, int(np.prod(shape))
    buffers = np.zeros((BUFFERS, num_bytes), np.uint8)
    with socket.create_server((host, 0)) as listener:
        sender.begin(_send_bare, bare, listener.getsockname(), shape, total)
        accepted, _ = listener.accept()
        watch = Stopwatch(total)
        with bare.listener_side(accepted) as source:
            receive = _opener(bare, source, num_bytes)
            for index in range(total):
                receive(memoryview(buffers[index % BUFFERS]), index)
                watch.count()
            source.sendall(b".")
        return moved(watch, sender)


def _send_bare(bare: Bare, address: tuple[str, int], shape: Shape, total: int) -> float:
    payload = make_images(shape).data.cast("B")
    watch = Stopwatch(total)
    with bare.sender_side(socket.create_connection(address)) as target:
        send = _sealer(bare, target, len(payload))
        for index in range(total):
            send(payload, index)
            watch.count()
        target.recv(1)
    return watch.per_group_s()[1]


def _sealer(bare: Bare, target: socket.socket, num_bytes: int) -> Callable[[memoryview, int], None]:
    """What sends one group, by its number."""
    sealed, aes = bytearray(num_bytes + TAG_BYTES), _cipher(bare)

    def send(payload: memoryview, index: int) -> None:
        if bare.checked:
            target.sendall(xxhash.xxh3_64_digest(payload))
        if aes is not None:
            aes.encrypt_into(_nonce(index), payload, None, sealed)
        target.sendall(payload if aes is None else sealed)

    return send


def _opener(bare: Bare, source: socket.socket, num_bytes: int) -> Callable[[memoryview, int], None]:
    """What receives one group, by its number, into the buffer given."""
    digest, sealed, aes = bytearray(DIGEST_BYTES), bytearray(num_bytes + TAG_BYTES), _cipher(bare)

    def receive(buffer: memoryview, index: int) -> None:
        if bare.checked:
            _fill(source, memoryview(digest))
        _fill(source, buffer if aes is None else memoryview(sealed))
        if aes is not None:
            aes.decrypt_into(_nonce(index), sealed, None, buffer)
        if bare.checked and xxhash.xxh3_64_digest(buffer) != digest:
            raise ValueError("a group arrived changed")

    return receive


def _cipher(bare: Bare) -> AESGCM | None:
    return None if bare.aes_key is None else AESGCM(bare.aes_key)


def _nonce(index: int) -> bytes:
    return index.to_bytes(NONCE_BYTES, "little")


def _fill(source: socket.socket, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        received = source.recv_into(buffer[filled:])
        if not received:
            raise EOFError("the sender is gone")
        filled += received


def make_certificate(folder: Path) -> Path:
    """Key and certificate for `bench` in one file, by the openssl program."""
    path, key = folder / "certificate.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    named = ["-nodes", "-days", "1", "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench"]
    subprocess.run(
        [*made, *named, "-keyout", str(key), "-out", str(path)], capture_output=True, check=True
    )
    with path.open("a") as handle:
        handle.write(key.read_text())
    return path
