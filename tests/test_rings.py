"""The rings' memory and bookkeeping, without sockets: what is written is read, and nothing else."""

import contextlib
import ctypes
import errno
import fcntl
import os
import subprocess
import sys
from collections import deque

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_synclr.paths import PROJECT_DIR
from online_synclr.stream import ring_memory
from online_synclr.stream.admission import Terms
from online_synclr.stream.errors import MalformedMessage, StreamError
from online_synclr.stream.frames import pack
from online_synclr.stream.messages import Credit, GroupHeader, Hello, InRing, RingOffer, Welcome
from online_synclr.stream.ring_memory import GeneratorRing, RingLayout, TrainerRing
from online_synclr.stream.rings import Rings
from online_synclr.stream.slot_window import SlotWindow
from online_synclr.stream.trainer_side import TrainerSide
from online_synclr.stream.whereabouts import whereabouts
from tests.stream_helpers import (
    RUN_ID,
    SHAPE,
    FakeSink,
    images_of,
    make_hello,
    make_recipe,
)

SLOT_BYTES = int(np.prod(SHAPE))
LAYOUT = RingLayout(num_slots=4, slot_bytes=SLOT_BYTES)
PUNCH_HOLE_KEEP_SIZE = 3
"""FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE of linux/falloc.h."""

HERE = msgspec.structs.replace(make_hello(), place=whereabouts())


def no_memory(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ring_files() -> set[str]:
    """Files of rings that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if "osynclr-ring" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(name)
    return found


# --- the window ---


@given(
    num_slots=st.integers(1, 5),
    choices=st.lists(st.sampled_from(["credit", "send", "read", "lose"]), max_size=60),
)
def test_who_keeps_to_its_credits_never_writes_over_an_unread_slot(
    num_slots: int, choices: list[str]
) -> None:
    window, memory = SlotWindow(num_slots), [-1] * num_slots
    held = credits = position = 0
    under_way: deque[int] = deque()
    for choice in choices:
        if choice == "credit" and held < num_slots:
            window.grant(1)
            held, credits = held + 1, credits + 1
        elif choice == "send" and credits:
            memory[position % num_slots] = position
            under_way.append(position)
            credits, position = credits - 1, position + 1
        elif choice == "read" and under_way:
            sent = under_way.popleft()
            assert memory[window.take(sent)] == sent
            held -= 1
        elif choice == "lose" and under_way:
            # Its header was unreadable: the credit is used up, the slot was not looked at.
            under_way.popleft()
            held -= 1


def test_only_positions_under_a_credit_and_not_read_yet_may_be_read() -> None:
    window = SlotWindow(4)
    with pytest.raises(MalformedMessage, match="slot"):
        window.take(0)
    window.grant(4)
    assert [window.take(0), window.take(2)] == [0, 2]
    for position in (0, 1, 2, 4, 2**64 - 1, -1):
        with pytest.raises(MalformedMessage, match="slot"):
            window.take(position)
    window.grant(2)
    window.grant(-1)
    assert window.take(4) == 0
    with pytest.raises(MalformedMessage, match="slot"):
        window.take(5)


# --- the memory ---


def test_what_is_written_is_read_in_every_slot_and_round() -> None:
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    out = np.zeros(SHAPE, np.uint8)
    for counter in range(3 * LAYOUT.num_slots):
        generator.write(0, images_of(counter))
        generator.sent(1)
        trainer.read(counter, out)
        assert np.array_equal(out, images_of(counter))
    generator.close()
    trainer.close()


def test_a_group_that_could_not_be_sent_is_written_again_in_its_slot() -> None:
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    for counter in (1, 2):
        generator.write(0, images_of(counter))
    out = np.zeros(SHAPE, np.uint8)
    trainer.read(0, out)
    assert np.array_equal(out, images_of(2))


def test_a_slot_that_is_written_meanwhile_is_found() -> None:
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    generator.write(0, images_of(0))

    class Overtaken:
        """Where the copy goes; a whole round later, before the trainer has finished, the generator
        writes four groups for which it has no credit."""

        def reshape(self, *_: int) -> "Overtaken":
            return self

        def __setitem__(self, _: slice, source: np.ndarray) -> None:
            assert np.array_equal(source, images_of(0).reshape(-1))
            generator.sent(1)
            for index in range(4):
                generator.write(index, images_of(1 + index))

    with pytest.raises(MalformedMessage, match="torn"):
        trainer.read(0, Overtaken())  # type: ignore[arg-type]


def test_a_slot_that_is_not_complete_is_not_read() -> None:
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    out = np.full(SHAPE, 9, np.uint8)
    for position in (0, 1):
        with pytest.raises(MalformedMessage, match="torn"):
            trainer.read(position, out)
    with pytest.raises(ValueError, match="reshape"):
        generator.write(0, images_of(0)[:, :, :3])
    with pytest.raises(MalformedMessage, match="torn"):
        trainer.read(0, out)
    assert (out == 9).all()


def test_neither_side_can_shrink_the_memory() -> None:
    trainer = TrainerRing(LAYOUT)
    path = f"/proc/self/fd/{trainer.offer.file}"
    assert os.stat(path).st_blocks * 512 >= LAYOUT.total_bytes, "it is not really reserved"
    file = os.open(path, os.O_RDWR)
    with pytest.raises(PermissionError):
        os.ftruncate(file, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(file)


def test_memory_that_a_peer_punches_holes_into_is_zeros_and_no_signal() -> None:
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    generator.write(0, images_of(0))
    file = os.open(f"/proc/self/fd/{trainer.offer.file}", os.O_RDWR)
    punch = ctypes.CDLL(None, use_errno=True).fallocate
    punch.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    assert punch(file, PUNCH_HOLE_KEEP_SIZE, 0, LAYOUT.total_bytes) == 0
    with pytest.raises(MalformedMessage, match="torn"):
        trainer.read(0, np.zeros(SHAPE, np.uint8))
    os.close(file)


def test_a_file_that_is_not_the_trainers_ring_is_not_touched() -> None:
    trainer, other = TrainerRing(LAYOUT), TrainerRing(LAYOUT)
    offer = trainer.offer
    plain = os.memfd_create("plain")
    os.ftruncate(plain, LAYOUT.total_bytes)
    wrong = {
        "another ring": msgspec.structs.replace(offer, file=other.offer.file),
        "not sealed": msgspec.structs.replace(offer, file=plain),
        "other slots": msgspec.structs.replace(offer, num_slots=400),
        "no such file": msgspec.structs.replace(offer, file=2**30),
        "no such process": msgspec.structs.replace(offer, pid=2**31 - 1),
        "not even a file": msgspec.structs.replace(offer, file=os.pipe()[1]),
        "other groups": msgspec.structs.replace(offer, slot_bytes=SLOT_BYTES - 1),
    }
    before = other._shared.read_label(64)
    for offered in wrong.values():
        with pytest.raises(StreamError):
            GeneratorRing(offered, SLOT_BYTES)
    assert other._shared.read_label(64) == before
    os.close(plain)


def test_nothing_is_left_of_a_ring() -> None:
    before = ring_files()
    trainer = TrainerRing(LAYOUT)
    generator = GeneratorRing(trainer.offer, SLOT_BYTES)
    assert ring_files() > before
    trainer.close()
    generator.write(0, images_of(1))  # it is its own memory now, and nobody else's
    generator.close()
    assert ring_files() == before


def test_memory_that_cannot_be_reserved_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ring_files()
    monkeypatch.setattr(os, "posix_fallocate", no_memory)
    with pytest.raises(OSError, match="No space"):
        TrainerRing(LAYOUT)
    assert ring_files() == before


# --- who gets a ring ---


class Told:
    """Rings, and what they said."""

    def __init__(self, *, place: str | None = None, max_bytes: int = 2**20) -> None:
        self.said: list[str] = []
        self.rings = Rings(
            image_shape=SHAPE,
            num_slots=4,
            max_bytes=max_bytes,
            say=self.said.append,
            place=place,
        )


def test_a_generator_of_another_machine_gets_none_and_nobody_is_told() -> None:
    told = Told(place="boot-1/5")
    elsewhere = msgspec.structs.replace(HERE, place="boot-2/5")
    assert told.rings.open(b"g", elsewhere) is None
    assert told.rings.open(b"g", msgspec.structs.replace(HERE, place="")) is None
    assert not told.said


def test_where_nothing_is_known_nobody_is_near() -> None:
    told = Told(place="")
    assert told.rings.open(b"g", msgspec.structs.replace(HERE, place="")) is None


def test_a_generator_in_another_container_is_told_what_to_do() -> None:
    told = Told(place="boot-1/5")
    elsewhere = msgspec.structs.replace(HERE, place="boot-1/6")
    for _ in range(3):
        assert told.rings.open(b"g", elsewhere) is None
    assert len(told.said) == 1
    assert "g0" in told.said[0]
    assert "--pid=host" in told.said[0]


def test_no_memory_is_said_once_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(ring_memory.os, "posix_fallocate", no_memory)
    told.rings.probe()
    assert told.rings.open(b"g", HERE) is None
    assert len(told.said) == 1
    assert "No space left" in told.said[0]
    assert "more memory" in told.said[0]
    monkeypatch.undo()
    assert told.rings.open(b"g", HERE) is not None, "a shortage that is over counts no more"


LIMITED = """
import resource
from online_synclr.stream.rings import Rings
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
rings = Rings(image_shape=(4, 3, 256, 256), num_slots=16, max_bytes=2**30, say=print)
rings.probe()
"""


def test_a_limit_of_the_system_is_found_at_the_start_and_is_no_signal() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True, cwd=PROJECT_DIR
    )
    assert "File too large" in run.stdout
    assert "stream.credits_per_generator" in run.stdout


def test_nothing_of_dev_shm_is_used() -> None:
    trainer = TrainerRing(LAYOUT)
    assert os.fstat(trainer.offer.file).st_dev != os.stat("/dev/shm").st_dev
    trainer.close()


def test_a_system_without_such_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.delattr(os, "memfd_create")
    assert told.rings.open(b"g", HERE) is None
    assert "memfd_create" in told.said[0]


def test_all_rings_together_are_bounded() -> None:
    told = Told(max_bytes=2 * LAYOUT.total_bytes)
    for name in (b"g1", b"g2"):
        assert told.rings.open(name, HERE) is not None
    assert told.rings.open(b"g3", HERE) is None
    assert "stream.shared_memory_bytes" in told.said[0]
    # A new lease period of one that has a ring needs no more memory than the one before.
    assert told.rings.open(b"g2", HERE) is not None
    told.rings.close(b"g1")
    assert told.rings.open(b"g3", HERE) is not None
    assert told.rings.num_bytes == 2 * LAYOUT.total_bytes
    told.rings.close_all()
    assert told.rings.num_bytes == len(told.rings) == 0


# --- at a trainer ---


class Trainer:
    """A trainer side with rings; its peer may say anything."""

    def __init__(self, limit: int = 4) -> None:
        self.sink = FakeSink()
        self.said: list[str] = []
        self.rings = Rings(
            image_shape=SHAPE, num_slots=limit, max_bytes=2**20, say=self.said.append
        )
        self.side = TrainerSide(
            terms=Terms(run_id=RUN_ID, image_shape=SHAPE),
            sink=self.sink,
            credits_per_generator=limit,
            silence_s=8.0,
            rings=self.rings,
        )
        self.sent = 0

    def welcome(self, hello: Hello = HERE) -> Welcome:
        (answer,) = self.side.on_frames(hello.generator_id.encode(), pack(hello), 0.0)
        assert isinstance(answer.message, Welcome)
        return answer.message

    def join(self, hello: Hello = HERE) -> tuple[int, GeneratorRing]:
        """The lease period, and its ring opened."""
        welcome = self.welcome(hello)
        assert isinstance(welcome.ring, RingOffer)
        return welcome.lease, GeneratorRing(welcome.ring, SLOT_BYTES)

    def say(self, lease: int, position: int, num_groups: int = 1) -> None:
        """That groups lie in the ring from `position` on."""
        message = InRing(
            recipes=[make_recipe(self.sent + index) for index in range(num_groups)],
            position=position,
            sequence=self.sent,
            lease=lease,
        )
        self.sent += num_groups
        self.side.on_frames(b"g0", pack(message), 0.0)

    def send(self, lease: int) -> None:
        """A group through the socket."""
        payload = images_of(self.sent).tobytes()
        header = GroupHeader(
            recipe=make_recipe(self.sent),
            shape=SHAPE,
            encoding="raw",
            payload_bytes=len(payload),
            sequence=self.sent,
            lease=lease,
        )
        self.sent += 1
        self.side.on_frames(b"g0", pack(header, payload), 0.0)

    @property
    def discarded(self) -> dict[str, int]:
        counts = self.side.counters()
        assert counts.sent == counts.received + counts.lost + sum(counts.discarded.values())
        assert counts.credits_in_flight == self.sink.in_flight
        return counts.discarded


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_groups_in_slots_are_inserted(at_once: int) -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    for first in range(0, 12, at_once):
        trainer.side.issue_credits()
        for index in range(at_once):
            ring.write(index, images_of(first + index))
        trainer.say(lease, ring.position, at_once)
        ring.sent(at_once)
    assert trainer.discarded == {}
    assert [group.recipe.counter for group in trainer.sink.groups] == list(range(12))
    for counter, group in enumerate(trainer.sink.groups):
        assert np.array_equal(group.images_mchw, images_of(counter))
    counts = trainer.side.counters()
    assert counts.messages == counts.taken == 1 + 12, "each group counts as a message"


@pytest.mark.parametrize(
    ("position", "num_groups", "reasons"),
    [
        (0, 1, {"slot": 1}),  # it was read before
        (4 + 1, 1, {"slot": 1}),  # no credit for it
        (2**63 - 1, 1, {"slot": 1}),
        (1, 1, {"torn": 1}),  # nothing was written there
        (0, 3, {"slot": 1, "torn": 2}),
        (1, 6, {"torn": 4, "late": 2}),  # more than it has credits for
        (1, 64, {"torn": 4, "late": 60}),
    ],
)
def test_wrong_slots_of_a_hostile_peer_are_discarded(
    position: int, num_groups: int, reasons: dict[str, int]
) -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    trainer.side.issue_credits()
    ring.write(0, images_of(0))
    trainer.say(lease, 0)
    trainer.side.issue_credits()
    trainer.say(lease, position, num_groups)
    assert trainer.discarded == reasons
    assert len(trainer.sink.groups) == 1
    assert trainer.sink.in_flight == max(0, 4 - num_groups), "credits are used up all the same"


def test_without_a_credit_no_slot_is_looked_at() -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    ring.write(0, images_of(0))
    trainer.say(lease, 0)
    assert trainer.discarded == {"late": 1}


def test_a_peer_without_a_ring_cannot_name_slots() -> None:
    trainer = Trainer()
    welcome = trainer.welcome(make_hello())
    assert welcome.ring is None
    trainer.side.issue_credits()
    trainer.say(welcome.lease, 0)
    assert trainer.discarded == {"slot": 1}


def test_a_group_of_another_number_of_images_is_none() -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    trainer.side.issue_credits()
    ring.write(0, images_of(0))
    message = InRing(recipes=[make_recipe(images=3)], position=0, sequence=0, lease=lease)
    trainer.side.on_frames(b"g0", pack(message), 0.0)
    assert trainer.discarded == {"shape": 1}


def test_every_lease_period_has_a_ring_of_its_own() -> None:
    trainer = Trainer()
    lease, old = trainer.join()
    trainer.side.issue_credits()
    again, new = trainer.join(msgspec.structs.replace(HERE, connection=1))
    trainer.side.issue_credits()
    assert again > lease
    # The connection broke while a group was written: it is finished, and told of, too late.
    old.write(0, images_of(7))
    trainer.say(lease, 0)
    new.write(0, images_of(8))
    trainer.say(again, 0)
    assert trainer.discarded == {"late": 1}
    (group,) = trainer.sink.groups
    assert np.array_equal(group.images_mchw, images_of(8))


def test_rings_end_with_their_lease_periods() -> None:
    trainer = Trainer()
    trainer.join()
    assert len(trainer.rings) == 1
    for second in range(10):
        trainer.side.check_silence(float(second))
    assert trainer.side.live_engines == len(trainer.rings) == 0


def test_credits_that_never_left_are_no_slots() -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    (credit,) = trainer.side.issue_credits()
    assert isinstance(credit.message, Credit)
    trainer.side.on_unsent(credit, unreachable=False)
    trainer.side.issue_credits()
    ring.sent(4)
    ring.write(0, images_of(1))
    trainer.say(lease, 4)
    assert trainer.discarded == {"slot": 1}


def test_who_sends_in_spite_of_its_ring_has_none_any_more() -> None:
    trainer = Trainer()
    lease, ring = trainer.join()
    trainer.side.issue_credits()
    trainer.send(lease)
    assert trainer.discarded == {}
    assert len(trainer.rings) == 0
    assert "g0 cannot open" in trainer.said[0]
    ring.write(0, images_of(1))
    trainer.say(lease, 0)
    assert trainer.discarded == {"slot": 1}


def test_a_supervisors_connection_gets_no_ring() -> None:
    trainer = Trainer()
    control = msgspec.structs.replace(make_hello(role="control"), place=whereabouts())
    assert trainer.welcome(control).ring is None
