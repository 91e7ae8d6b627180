"""A live trainer socket under hostile messages: nothing crashes, hangs or grows, all are counted.

    python -m benchmarks.fuzz [--messages 1000000] [--transport ipc curve]

A trainer's receiver runs in a process of its own. One generator sends it groups in between; others,
let in like it (with keys: holding one) and given rings like it, send what `hostile_messages` makes,
on connections that come and go. At the end every message sent must have been read and either taken
in or counted by reason, every group of the honest generator must be there with its pixels, and the
receiver's memory must be what it was after the first tenth. Exits with 1 and says what does not
hold.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import psutil
import zmq

from benchmarks.hostile_messages import HostileMessages
from online_synclr.stream.endpoints import make_endpoint
from online_synclr.stream.frames import pack
from online_synclr.stream.group import Group, Origin, Recipe
from online_synclr.stream.keys import RANKS, GeneratorKey, KeyFolder, load_generator_key
from online_synclr.stream.messages import GroupHeader, Hello
from online_synclr.stream.peers import ReceiverCounters
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender
from online_synclr.stream.whereabouts import whereabouts

SHAPE = (2, 3, 16, 16)
RUN_ID = "fuzz"
HONEST = "g0"
FUZZERS = 8
MESSAGES_A_CONNECTION = 150
"""Above the faults that cut a connection off, so that both sides of that line are reached."""

GROUPS_A_ROUND = 4
HONEST_WORDS = 2
"""HELLO and the first STATUS of the honest generator; its BYE comes at the end."""

SHARED_MEMORY_BYTES = 2**24
PATIENCE_S = 60.0
MEMORY_GROWTH = 0.05


class Sink:
    """Has room for sixteen groups more at any time, and keeps none; counts the honest ones, in
    their order."""

    def __init__(self) -> None:
        self.honest = 0
        self._images = np.zeros(SHAPE, np.uint8)

    def credits_to_issue(self, in_flight: int) -> int:
        """Up to sixteen in flight."""
        return 16 - in_flight

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """The same for all: none is kept."""
        return self._images

    def insert(self, group: Group) -> None:
        """Note whose it is: hostile recipes are of another run seed."""
        counter = group.recipe.counter
        right = counter == self.honest and (group.images_mchw == counter % 251).all()
        self.honest += group.recipe.run_seed == 0 and right

    def reclaim(self, num_credits: int) -> None:
        """Room is always there."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """Room is always there."""


@dataclass(frozen=True)
class Look:
    """What the trainer process says of itself."""

    counters: ReceiverCounters
    honest: int
    rss_bytes: int


def trainer(pipe: Connection, transport: str, keys_folder: str) -> None:
    """The process under attack; answers `look` until told to stop."""
    sink = Sink()
    keys = KeyFolder(Path(keys_folder)) if transport == "curve" else None
    receiver = Receiver(
        make_endpoint("tcp" if keys else "ipc", "127.0.0.1", 0, 0),
        RUN_ID, sink, image_shape=SHAPE, keys=keys, max_group_bytes=2**16,
        shared_memory_bytes=SHARED_MEMORY_BYTES,
    )  # fmt: skip
    with receiver:
        # Complete, so that who asks to join is given a place.
        receiver.set_addresses([receiver.address])
        pipe.send(receiver.address)
        while pipe.recv() == "look":
            receiver.peers()  # raises if its thread has failed
            memory = psutil.Process().memory_info().rss
            pipe.send(Look(receiver.counters(), sink.honest, memory))


def recipe(counter: int, run_seed: int) -> Recipe:
    return Recipe(
        caption="a red fox in the snow", concept="red fox", source="fuzz", template="fuzz",
        background="", relation="", run_seed=run_seed, incarnation=1, stream=1, counter=counter,
        num_images=SHAPE[0], llm_fingerprint="fuzz", image_fingerprint="fuzz",
    )  # fmt: skip


def hello(generator_id: str) -> Hello:
    return Hello(
        run_id=RUN_ID, generator_id=generator_id, role="engine", incarnation=1, stream=1,
        image_shape=SHAPE, place=whereabouts(),
    )  # fmt: skip


def hostile(seed: int) -> HostileMessages:
    """What one connection sends; the generators' names repeat, as a real attacker's would."""
    payload = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8).tobytes()
    origin = Origin(run_seed=2, incarnation=1, stream=0, counter=seed)
    repeated = msgspec.structs.replace(recipe(0, run_seed=1), origin=origin)
    header = GroupHeader(
        recipe=repeated, shape=SHAPE, encoding="raw", payload_bytes=len(payload),
        sequence=0, lease=1,
    )  # fmt: skip
    return HostileMessages(seed, hello(f"g{1 + seed % FUZZERS}"), header, payload)


def attack(
    address: str,
    key: GeneratorKey | None,
    seed: int,
    num_messages: int,
    all_read: Callable[[int], None],
) -> int:
    """One connection: a right HELLO, then junk; how many messages were sent.

    It stays until `all_read` returns: an ending connection takes along what waits in the kernel.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    if key is not None:
        dealer.setsockopt(zmq.CURVE_SERVERKEY, key.trainers.encode())
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
        dealer.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    dealer.connect(address)
    source = hostile(seed)
    dealer.send_multipart(pack(hello(f"g{1 + seed % FUZZERS}")))
    for _ in range(num_messages):
        dealer.send_multipart(source.next())
    all_read(1 + num_messages)
    dealer.close(linger=0)
    context.term()
    return 1 + num_messages


def run(transport: str, num_messages: int) -> list[str]:
    """Attack a trainer; what does not hold."""
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFolder(Path(folder))
        keys.make()
        key = load_generator_key(keys.generator(RANKS)) if transport == "curve" else None
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(
            target=trainer, args=(there, transport, folder)
        )
        child.start()
        try:
            return _run(here, key, transport, num_messages)
        finally:
            here.send("stop")
            child.join(PATIENCE_S)
            child.kill()


def _run(pipe: Connection, key: GeneratorKey | None, transport: str, total: int) -> list[str]:
    def look() -> Look:
        pipe.send("look")
        if not pipe.poll(PATIENCE_S):
            raise TimeoutError("the trainer does not answer")
        return pipe.recv()

    address = pipe.recv()

    def await_read(before: int, more: int) -> None:
        num_messages = before + more
        deadline_s = time.monotonic() + PATIENCE_S
        while look().counters.messages < num_messages:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the trainer has not read {num_messages} messages")

    # One heartbeat a day: what the honest generator says is then known to the message.
    sender = Sender([address], hello(HONEST), key=key, heartbeat_s=86_400.0)
    await_read(HONEST_WORDS, 0)
    began_s = time.monotonic()
    sent = groups = seed = 0
    settled: Look | None = None
    while sent < total:
        before = HONEST_WORDS + sent + groups
        sent += attack(
            address, key, seed, min(MESSAGES_A_CONNECTION, total - sent),
            partial(await_read, before),
        )  # fmt: skip
        seed += 1
        for _ in range(GROUPS_A_ROUND):
            images = np.full(SHAPE, groups % 251, np.uint8)
            groups += sender.put(Group(recipe(groups, run_seed=0), images), PATIENCE_S)
        await_read(HONEST_WORDS, sent + groups)
        if settled is None and sent >= total / 10:
            settled = look()
    clean = sender.close(PATIENCE_S)
    last = look()
    assert settled is not None
    return _report(transport, sent, seed, groups, clean, settled, last, time.monotonic() - began_s)


def _dropped(look: Look) -> int:
    counters = look.counters
    return sum(counters.malformed.values()) + sum(counters.discarded.values())


def _report(
    transport: str, sent: int, connections: int, groups: int, clean: bool, settled: Look,
    last: Look, seconds: float,
) -> list[str]:  # fmt: skip
    counters = last.counters
    growth = last.rss_bytes / settled.rss_bytes - 1
    print(f"{transport}: {sent} hostile messages on {connections} connections, {seconds:.0f} s")
    print(f"  read {counters.messages}, taken in {counters.taken}, dropped {_dropped(last)}")
    print(f"  honest groups {last.honest} of {groups}; strangers {counters.strangers or 'none'}")
    print(
        f"  memory {settled.rss_bytes / 2**20:.1f} MiB after a tenth, "
        f"{last.rss_bytes / 2**20:.1f} at the end ({100 * growth:+.1f} %)"
    )
    for kind, reasons in (("message", counters.malformed), ("group", counters.discarded)):
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            print(f"  {kind} {reason:>18} {count}")
    checks = {
        "messages were not counted": counters.messages == counters.taken + _dropped(last),
        "messages were lost": counters.messages == HONEST_WORDS + sent + groups + 1,
        "groups of the honest generator were lost": clean and last.honest == groups,
        f"memory grew by more than {100 * MEMORY_GROWTH:.0f} %": growth <= MEMORY_GROWTH,
        "sent is not received + lost + discarded": counters.sent
        == counters.received + counters.lost + sum(counters.discarded.values()),
    }
    return [f"{transport}: {what}" for what, holds in checks.items() if not holds]


def main() -> None:
    """Attack over every transport asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--transport", nargs="+", choices=("ipc", "curve"), default=["ipc"])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, pyzmq {zmq.__version__}, load {os.getloadavg()[0]:.1f}")
    wrong = [what for name in arguments.transport for what in run(name, arguments.messages)]
    for what in wrong:
        print(f"DOES NOT HOLD: {what}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
