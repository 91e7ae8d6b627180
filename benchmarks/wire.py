"""Groups between two processes over TCP: the stream against what a bare socket does.

    python -m benchmarks.wire [--cases raw tcp curve ...] [--veth [--rate 10gbit]]

| case | what moves the groups |
| --- | --- |
| raw | a TCP socket: `sendall` here, `recv_into` a preallocated buffer there |
| raw_checked | the same, with xxh3 over each group at both ends, as the stream has |
| tls | the same under TLS 1.3 (Python's `ssl`, a certificate made for the occasion) |
| aes_gcm | the bare socket, each group sealed with AES-256-GCM (`cryptography`), one key for all |
| tcp | the stream without encryption, which a run never uses |
| curve | the stream under CURVE keys, as runs have it |
| curve_jpeg | the same with `stream.encoding=jpeg`; the made-up pictures shrink to a tenth |

One process sends the same group over and over, another receives it; with `--veth` the two are in
network namespaces of their own, joined by a virtual cable (root only), else on loopback. Cases are
interleaved. CPU is that of all threads of the process, the kernel's part included, between the
warm-up and the last group: where the machine is shared it is the steadier figure.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.bare_socket import Bare, bare_rate, make_certificate
from benchmarks.measuring import REPEATS, describe, ratio, spread, table
from benchmarks.namespaces import Cable, cable, enter
from benchmarks.stamped import WARM_UP_GROUPS, make_recipe
from benchmarks.stream import CountingSink, Shape, make_hello
from benchmarks.synthetic_pictures import make_images
from benchmarks.two_processes import Moved, SenderProcess, Stopwatch, moved
from online_synclr.stream.endpoints import Endpoint
from online_synclr.stream.group import Group
from online_synclr.stream.keys import RANKS, GeneratorKey, KeyFolder, load_generator_key
from online_synclr.stream.messages import Encoding
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender

CASES = ("raw", "raw_checked", "tls", "aes_gcm", "tcp", "curve", "curve_jpeg")
CREDITS = 16
LONG_S = 300.0


class TimingSink(CountingSink):
    """A sink that also reads the clocks."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.watch = Stopwatch(total)

    def insert(self, group: Group) -> None:
        """Count it."""
        self.watch.count()
        super().insert(group)


def stream_over(
    sender: SenderProcess,
    shape: Shape,
    num_groups: int,
    host: str,
    keys: KeyFolder | None,
    encoding: Encoding = "raw",
) -> Moved:
    """Over the stream, under keys if there are any."""
    total = num_groups + WARM_UP_GROUPS
    sink = TimingSink(total)
    receiver = Receiver(
        # Not `tcp_endpoint`, which refuses to listen beyond loopback without keys.
        Endpoint(f"tcp://{host}:*"),
        "bench",
        sink,
        image_shape=shape,
        credits_per_generator=CREDITS,
        keys=keys,
    )
    receiver.start()
    key = None if keys is None else load_generator_key(keys.generator(RANKS))
    try:
        sender.begin(_send_stream, receiver.address, shape, key, encoding, total)
        if not sink.done.wait(LONG_S):
            raise TimeoutError(f"{sink.received} of {total} groups after {LONG_S:.0f} s")
        receiver.announce_end()
        receiver.drain(30.0)
        return moved(sink.watch, sender)
    finally:
        receiver.close()


def _send_stream(
    address: str,
    shape: Shape,
    key: GeneratorKey | None,
    encoding: Encoding,
    total: int,
) -> float:
    group, watch = Group(make_recipe(shape), make_images(shape)), Stopwatch(total)
    sender = Sender([address], make_hello(shape), queue_groups=CREDITS, encoding=encoding, key=key)
    while not sender.end_seen.is_set():
        # What is put is sent a queue later, so first and last are late by the same.
        if sender.put(group, 1.0):
            watch.count()
    sender.close(5.0)
    return watch.per_group_s()[1]


def make_cases(
    names: Sequence[str],
    sender: SenderProcess,
    shape: Shape,
    num_groups: int,
    host: str,
    folder: Path,
) -> dict[str, Callable[[], Moved]]:
    """The measurements by name."""
    keys = KeyFolder(folder / "keys")
    keys.make()
    certificate = make_certificate(folder) if "tls" in names else None

    def bare(how: Bare) -> Callable[[], Moved]:
        return lambda: bare_rate(sender, how, shape, num_groups, host)

    def stream(
        folder: KeyFolder | None, groups: int = num_groups, encoding: Encoding = "raw"
    ) -> Callable[[], Moved]:
        return lambda: stream_over(sender, shape, groups, host, folder, encoding)

    known = {
        "raw": bare(Bare()),
        "raw_checked": bare(Bare(checked=True)),
        "tls": bare(Bare(certificate=certificate)),
        "aes_gcm": bare(Bare(aes_key=AESGCM.generate_key(256))),
        "tcp": stream(None),
        "curve": stream(keys),
        # Fewer: it is so much slower.
        "curve_jpeg": stream(keys, num_groups // 4, "jpeg"),
    }
    return {name: known[name] for name in names}


def measure(cases: dict[str, Callable[[], Moved]], repeats: int) -> dict[str, list[Moved]]:
    """Each case `repeats` times, in turn, after one uncounted."""
    for case in cases.values():
        case()
    moved: dict[str, list[Moved]] = {name: [] for name in cases}
    names = list(cases)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            moved[name].append(cases[name]())
    return moved


def report(moved: dict[str, list[Moved]]) -> str:
    """The table: rates, their ratio to the first case's, CPU a group."""
    base = [one.groups_per_s for one in next(iter(moved.values()))]
    rows = []
    for name, values in moved.items():
        rates = [one.groups_per_s for one in values]
        receiver, sender = ([one.receiver_us for one in values], [one.sender_us for one in values])
        cpu = [f"{spread(receiver):.0f}", f"{spread(sender):.0f}"]
        rows.append([name, f"{spread(rates):.0f}", f"{ratio(rates, base):.2f}", *cpu])
    first = next(iter(moved))
    head = ["case", "groups/s", f"of {first}", "receiver CPU us a group", "sender CPU us a group"]
    return table(head, rows)


def _in_namespace(namespace: str, work: Callable[[], None]) -> None:
    """In a thread of its own: a namespace is a thread's, and this one may not come back."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace)
            work()
        except BaseException as error:  # raised again by whoever waits
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="The stream against a bare socket.")
    parser.add_argument("--groups", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--veth", action="store_true", help="two network namespaces; needs root")
    parser.add_argument("--rate", default="", help="of the virtual cable, as tc writes it: 10gbit")
    options = parser.parse_args(arguments)
    shape = (options.images, 3, options.side, options.side)
    with ExitStack() as stack:
        over = stack.enter_context(cable(options.rate)) if options.veth else Cable()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sender = stack.enter_context(SenderProcess(over.far))
        cases = make_cases(options.cases, sender, shape, options.groups, over.host, folder)
        where = f"two namespaces {options.rate}".rstrip() if options.veth else "loopback"
        print(f"group {shape} uint8, {np.prod(shape) / 1e3:.0f} kB, {CREDITS} credits, {where}\n")
        _in_namespace(over.near, lambda: print(report(measure(cases, options.repeats))))
    print(f"\n{describe('pyzmq', 'numpy')}")


if __name__ == "__main__":
    main()
