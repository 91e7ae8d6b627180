"""The rings of one trainer: one to a peer and lease period, and who gets none and why.

    WELCOME: open -> offer;  CREDIT: grant;  IN_RING: read;  the lease period's end: close

A ring is never used for another lease period, of the same peer or of any other. A generator that
was stopped in the middle of a write, was taken for dead and wakes up an hour later finishes its
write in memory that nobody reads any more; what it then says of it is late, like its credit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.messages import Hello, RingOffer
from online_synclr.stream.ring_memory import RingLayout, TrainerRing
from online_synclr.stream.slot_window import SlotWindow
from online_synclr.stream.whereabouts import same_machine, whereabouts

_SLOWER: Final = "groups come through the socket instead, at a third to half of the speed"


@dataclass(slots=True)
class _Open:
    hello: Hello
    memory: TrainerRing
    window: SlotWindow


class Rings:
    """Shared memory for the groups of generators that run where this trainer does.

    Args:
        image_shape: (images, channels, height, width), uint8, of every group.
        num_slots: of each ring: the credits that a generator may hold.
        max_bytes: of all rings together.
        say: told once of every reason why shared memory is not used.
        place: where this process runs.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int, int],
        num_slots: int,
        max_bytes: int,
        say: Callable[[str], None],
        place: str | None = None,
    ) -> None:
        self._layout = RingLayout(num_slots, prod(image_shape))
        self._max_bytes = max_bytes
        self._say = say
        self._place = whereabouts() if place is None else place
        self._said: set[str] = set()
        self._rings: dict[bytes, _Open] = {}

    def __len__(self) -> int:
        return len(self._rings)

    @property
    def num_bytes(self) -> int:
        """Of all rings that are open."""
        return len(self._rings) * self._layout.total_bytes

    def probe(self) -> None:
        """Find out at the start, not at the first generator, whether there can be rings at all."""
        if self._fits() and (ring := self._make()) is not None:
            ring.close()

    def open(self, identity: bytes, hello: Hello) -> RingOffer | None:
        """A ring for the peer's new lease period, its old one closed; None: it has to send."""
        self.close(identity)
        if not self._is_here(hello) or not self._fits():
            return None
        memory = self._make()
        if memory is None:
            return None
        self._rings[identity] = _Open(hello, memory, SlotWindow(self._layout.num_slots))
        return memory.offer

    def grant(self, identity: bytes, num_credits: int) -> None:
        """The peer may send so many more groups; a negative number: so many less."""
        ring = self._rings.get(identity)
        if ring is not None:
            ring.window.grant(num_credits)

    def read(self, identity: bytes, position: int, out_mchw: np.ndarray) -> None:
        """Copy the group at `position` into `out_mchw`; its credit is spent.

        Raises:
            MalformedMessage: it has no ring or no such slot, or the slot is not written whole.
        """
        ring = self._rings.get(identity)
        if ring is None:
            raise MalformedMessage("slot", "no ring")
        ring.window.take(position)
        ring.memory.read(position, out_mchw)

    def not_used(self, identity: bytes) -> None:
        """The peer sends what it could have put into its ring: it cannot, so the ring goes."""
        ring = self._rings.get(identity)
        if ring is not None:
            self._say_once(
                "unreachable",
                f"generator {ring.hello.generator_id} cannot open this trainer's shared memory, "
                f"so its {_SLOWER}; start both as the same user, with a /proc that both can see",
            )
            self.close(identity)

    def close(self, identity: bytes) -> None:
        """The lease period is over."""
        ring = self._rings.pop(identity, None)
        if ring is not None:
            ring.memory.close()

    def close_all(self) -> None:
        """No more rings are needed."""
        for identity in list(self._rings):
            self.close(identity)

    def _is_here(self, hello: Hello) -> bool:
        if hello.place and hello.place == self._place:
            return True
        if same_machine(hello.place, self._place):
            self._say_once(
                "elsewhere",
                f"generator {hello.generator_id} is in another container of this machine, so its "
                f"{_SLOWER}; start both in one PID namespace (--pid=host) for shared memory",
            )
        return False

    def _fits(self) -> bool:
        needed = self._layout.total_bytes
        if self.num_bytes + needed <= self._max_bytes:
            return True
        self._say_once(
            "full",
            f"one generator's ring more, {needed} bytes, would exceed stream.shared_memory_bytes="
            f"{self._max_bytes}, so its {_SLOWER}; raise it, or lower "
            "stream.credits_per_generator",
        )
        return False

    def _make(self) -> TrainerRing | None:
        try:
            return TrainerRing(self._layout)
        except (OSError, AttributeError) as error:
            self._say_once(
                "none",
                f"no shared memory of {self._layout.total_bytes} bytes can be had ({error}), so "
                f"{_SLOWER}; allow this container more memory, or lower "
                "stream.credits_per_generator",
            )
            return None

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(text)
