"""A generator's end of the stream: one thread, a DEALER to each trainer it serves.

    renderer -> put -> Outbox -> the trainer with most credits, into its ring or in a message
    trainers -> WELCOME CREDIT END REJECT -> state of their Link

The thread waits in its poller only: for messages (trainers unblock it), for `put`, `close` and
changes of state (through the wake) and for the next heartbeat. The renderer waits in `put`, for
room in the outbox: trainers unblock it by issuing credits, END and REJECT do for good.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Final

import msgspec
import numpy as np
import zmq

from online_synclr.stream.errors import StreamError, StreamRejected
from online_synclr.stream.fan_out import choose_trainers
from online_synclr.stream.group import Group
from online_synclr.stream.keys import GeneratorKey
from online_synclr.stream.link import Link
from online_synclr.stream.memory import keep_large_blocks
from online_synclr.stream.messages import (
    MAX_IN_RING,
    Encoding,
    Error,
    GroupHeader,
    Hello,
    PeerState,
    Progress,
    check_counters,
    check_recipe,
    clip_text,
)
from online_synclr.stream.outbox import Outbox
from online_synclr.stream.payload import make_codec
from online_synclr.stream.wake import Wake, poll_ms
from online_synclr.stream.whereabouts import whereabouts

STALL_S: Final = 0.05
"""Pause before trying a connection again that could not take a group it had a credit for."""

FLUSH_SHARE: Final = 0.5
"""Share of the goodbye during which queued groups may still find credits."""

AT_ONCE_BYTES: Final = 4 * 2**20
"""Groups that are there anyway are told of together, up to so many bytes of them."""

BATCHES_PER_CREDITS: Final = 4

GONE_S: Final = 2.0
"""Without any trainer for so long, queued groups wait for nobody; a broken connection is back by
then."""


class Sender:
    """Sends groups to trainers under their credits; reconnects on its own.

    The thread starts with the object. END from any trainer ends the stream: the attempt is over.
    So does the word of a trainer that belongs to a later attempt.

    Args:
        addresses: of all trainers, by index, or of one, which then tells the others.
        hello: introduces this engine; `image_shape` is checked against every group.
        queue_groups: groups held while no credit is there.
        encoding, jpeg_quality: of the payloads that go through a socket.
        heartbeat_s: STATUS is sent at least this often.
        fan_out, position: trainers served at most (0: all), and this generator's number, which
            spreads generators over trainers.
        key: to connect with, for trainers that listen on TCP.
        on_first_group: called once, by the thread, with the seconds until a group was sent.
        shared_memory: use the ring of a trainer that offers one.
        on_progress: called by the thread with the run's progress, at first and at each change.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        hello: Hello,
        *,
        queue_groups: int = 8,
        encoding: Encoding = "raw",
        jpeg_quality: int = 95,
        heartbeat_s: float = 2.0,
        fan_out: int = 0,
        position: int = 0,
        key: GeneratorKey | None = None,
        on_first_group: Callable[[float], None] = lambda elapsed_s: None,
        shared_memory: bool = True,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        keep_large_blocks()
        self._began_s = time.monotonic()
        self._on_first_group = on_first_group
        self._on_progress = on_progress
        self._progress: Progress | None = None
        self.end_seen = threading.Event()
        if shared_memory:
            hello = msgspec.structs.replace(hello, place=whereabouts())
        self._hello = hello
        self._heartbeat_s = heartbeat_s
        self._fan_out = fan_out
        self._position = position
        self._key = key
        self._codec = make_codec(encoding, jpeg_quality)
        self._outbox = Outbox(queue_groups)
        self._lock = threading.Lock()
        self._teardown = threading.Lock()
        self._state: PeerState = "loading"
        self._published: dict[str, float] = {}
        self._status_fresh = False
        self._error_message: str | None = None
        self._sent = 0
        self._busy_encode_s = 0.0
        self._closing: tuple[float, float] | None = None
        self._heard_s = 0.0
        """When a trainer last listened, as far as `close` has looked."""
        self._clean = False
        self._stalled = False
        self._hungry = False
        """Whether the thread lacks groups. Else it looks for them itself, once it has credits."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake = Wake(self._context)
        self._poller = zmq.Poller()
        self._links: list[Link] = []
        chosen = choose_trainers(len(addresses), fan_out, position)
        self._first_addresses = [addresses[index] for index in chosen]
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def put(self, group: Group, timeout_s: float) -> bool:
        """Hand a group over; it must not change afterwards.

        Waits up to `timeout_s` while the queue is full, which is while no trainer issues credits;
        counted as `wait_s/credits`. False: the time was up and the group is still the caller's;
        or, with `end_seen` set or after `close`, it is counted as unsent.

        Raises:
            ValueError: the group is not what HELLO announced, or its recipe cannot be sent.
            StreamRejected: a trainer refused this generator.
            StreamError: the sender's thread has failed.
        """
        self._check(group)
        taken = self._outbox.put(group, timeout_s)
        if taken and self._hungry:
            self._wake.wake()
        return taken

    def wait_sent(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until every group handed over is on its way; whether that is so.

        Waits for trainers to issue credits; counted as `wait_s/credits`.

        Raises:
            StreamRejected: a trainer refused this generator.
            StreamError: the sender's thread has failed.
        """
        return self._outbox.wait_sent(timeout_s)

    def publish_status(self, counters: dict[str, float], state: PeerState) -> None:
        """Set what STATUS and BYE report; a change of state is sent at once.

        Raises:
            ValueError: counters that a message cannot carry.
        """
        check_counters({**counters, **self.counters()})
        with self._lock:
            self._status_fresh |= state != self._state
            self._published, self._state = dict(counters), state
        self._wake.wake()

    def report_error(self, message: str) -> None:
        """Tell the trainers that this engine has failed for good; then `close`.

        They take back its credits at once, so nothing more is sent: what is queued is unsent.
        """
        with self._lock:
            self._error_message = clip_text(message)
        self._outbox.stop()
        self._wake.wake()

    def counters(self) -> dict[str, float]:
        """This end's cumulative counts; STATUS and BYE carry them too."""
        with self._lock:
            sent, busy_encode_s = self._sent, self._busy_encode_s
        return {
            "groups_sent": float(sent),
            "groups_unsent": float(self._outbox.unsent),
            "wait_s/credits": self._outbox.wait.total_s(),
            "busy_s/encode": busy_encode_s,
        }

    def close(self, goodbye_s: float = 20.0) -> bool:
        """Send what is queued, say BYE, wait for its acknowledgement; True if all went well.

        Waits at most `goodbye_s`: half of it for credits for queued groups (what is left is counted
        as unsent), then for the trainers' BYE_ACK; a trainer that is gone is not waited for.
        Closing before the acknowledgement would lose groups that are on their way.
        """
        with self._lock:
            now_s = time.monotonic()
            if self._closing is None:
                self._heard_s = now_s
                self._closing = (now_s + FLUSH_SHARE * goodbye_s, now_s + goodbye_s)
        self._wake.wake()
        self._thread.join()
        with self._teardown:
            self._wake.close()
            self._context.term()
        return self._clean

    def _check(self, group: Group) -> None:
        images, recipe = group.images_mchw, group.recipe
        if images.dtype != np.uint8 or images.shape != self._hello.image_shape:
            raise ValueError(
                f"group of {images.dtype} {images.shape}, HELLO announced uint8 "
                f"{self._hello.image_shape}"
            )
        if recipe.num_images != images.shape[0]:
            raise ValueError(f"recipe of {recipe.num_images} images, group of {images.shape[0]}")
        if (recipe.incarnation, recipe.stream) != (self._hello.incarnation, self._hello.stream):
            raise ValueError("the recipe's incarnation or stream is not that of HELLO")
        check_recipe(recipe)

    def _run(self) -> None:
        try:
            self._poller.register(self._wake.socket, zmq.POLLIN)
            for address in self._first_addresses:
                self._connect(address)
            while not self._step():
                self._poller.poll(poll_ms(self._pause_s()))
        except Exception as error:  # anything uncaught is raised from the next `put`
            self._outbox.fail(StreamError(f"the sender's thread failed: {error!r}"))
        finally:
            self._outbox.stop()
            for link in self._links:
                link.close()

    def _step(self) -> bool:
        """One round of everything that can be done without waiting; True when all is over."""
        self._wake.clear()
        for link in list(self._links):
            self._read(link)
        self._send_groups()
        self._tell_error()
        self._send_status()
        return self._closing is not None and self._say_goodbye()

    def _read(self, link: Link) -> None:
        link.on_events()
        known, progress = link.welcome, link.progress
        for _ in link.on_messages():
            pass
        if link.progress is not None and link.progress is not progress:
            self._note_progress(link.progress)
        if link.rejected is not None:
            if link.comes_back:
                self._end()
            else:
                self._outbox.fail(StreamRejected(link.rejected))
            self._disconnect(link)
            return
        if link.ended is not None:
            self._end()
        if link.welcome is not known:
            self._join_others(link)
        if link.retired:
            self._retire(link)

    def _note_progress(self, progress: Progress) -> None:
        """Trainers say the same at about the same time; the one that is furthest ahead counts."""
        known = self._progress
        # At equal steps the later word: before its first step a run knows less than at it.
        if progress != known and (known is None or progress.step >= known.step):
            self._progress = progress
            self._on_progress(progress)

    def _end(self) -> None:
        if not self.end_seen.is_set():
            # In this order: whoever is refused by the outbox finds `end_seen` set.
            self.end_seen.set()
            self._outbox.stop()

    def _send_groups(self) -> None:
        self._stalled = False
        while link := self._link_with_credits():
            # In this order: what is put after this look is told by whoever puts it.
            self._hungry = True
            groups = self._outbox.take(self._most_at_once(link))
            if not groups:
                return
            if not self._send_groups_to(link, groups):
                self._outbox.put_back(*groups)
                self._stalled = True
                return
            self._outbox.sent()
        self._hungry = False

    def _most_at_once(self, link: Link) -> int:
        """How many groups one message may tell of."""
        if link.ring is None:
            return 1
        by_size = AT_ONCE_BYTES // prod(self._hello.image_shape)
        # A part of the credits: the trainer reads while others are written.
        by_credits = link.ring.num_slots // BATCHES_PER_CREDITS
        return max(1, min(by_size, by_credits, MAX_IN_RING, link.credits))

    def _link_with_credits(self) -> Link | None:
        link = max(self._links, key=lambda link: link.credits, default=None)
        return link if link is not None and link.credits > 0 else None

    def _send_groups_to(self, link: Link, groups: Sequence[Group]) -> bool:
        if link.ring is not None:
            started_s = time.monotonic()
            sent = link.send_in_ring(groups)
            self._count_encode(started_s)
        else:
            (group,) = groups
            sent = self._send_group(link, group)
        if sent:
            with self._lock:
                first, self._sent = not self._sent, self._sent + len(groups)
            if first:
                self._on_first_group(time.monotonic() - self._began_s)
        return sent

    def _send_group(self, link: Link, group: Group) -> bool:
        started_s = time.monotonic()
        payload = self._codec.encode(group.images_mchw)
        self._count_encode(started_s)
        header = GroupHeader(
            recipe=group.recipe,
            shape=self._hello.image_shape,
            encoding=self._codec.encoding,
            payload_bytes=len(payload),
            sequence=link.sent,
            lease=link.lease,
        )
        return link.send_group(header, payload)

    def _count_encode(self, started_s: float) -> None:
        with self._lock:
            self._busy_encode_s += time.monotonic() - started_s

    def _send_status(self) -> None:
        with self._lock:
            fresh, self._status_fresh = self._status_fresh, False
            state, published = self._state, self._published
        now_s = time.monotonic()
        if not fresh and all(link.welcomed and now_s < link.next_due_s() for link in self._links):
            return
        counters = {**published, **self.counters()}
        for link in self._links:
            link.tend(state, counters, now_s, at_once=fresh)

    def _tell_error(self) -> None:
        with self._lock:
            message = self._error_message
        if message is None:
            return
        told = [link.send(Error(message=message)) for link in self._links if link.welcomed]
        if any(told):
            with self._lock:
                self._error_message = None

    def _say_goodbye(self) -> bool:
        assert self._closing is not None
        flush_until_s, until_s = self._closing
        now_s = time.monotonic()
        if any(link.welcomed for link in self._links):
            self._heard_s = now_s
        if len(self._outbox) and now_s < min(flush_until_s, self._heard_s + GONE_S):
            return False
        self._outbox.stop()
        pending = [link for link in self._links if link.welcomed and not link.bye_acked]
        with self._lock:
            published = self._published
        for link in pending:
            if not link.bye_sent:
                link.send_bye({**published, **self.counters()})
        self._clean = not pending
        return not pending or now_s >= until_s

    def _join_others(self, link: Link) -> None:
        """Connect to the trainers that WELCOME named, as far as this generator serves them."""
        welcome = link.welcome
        if welcome is None or len(welcome.addresses) <= max(1, welcome.trainer_index):
            return
        wanted = choose_trainers(len(welcome.addresses), self._fan_out, self._position)
        link.retired = welcome.trainer_index not in wanted
        linked = {other.address for other in self._links}
        linked_indexes = {
            other.welcome.trainer_index for other in self._links if other.welcome is not None
        }
        for index in wanted:
            address = welcome.addresses[index]
            if index not in linked_indexes and address not in linked:
                self._connect(address)

    def _retire(self, link: Link) -> None:
        """Leave a trainer that only served to learn of the others."""
        if link.bye_acked or not link.welcomed:
            self._disconnect(link)
        elif not link.bye_sent:
            with self._lock:
                published = self._published
            link.send_bye({**published, **self.counters()})

    def _connect(self, address: str) -> None:
        link = Link(
            self._context, address, self._hello, heartbeat_s=self._heartbeat_s, key=self._key
        )
        self._links.append(link)
        self._poller.register(link.socket, zmq.POLLIN)
        self._poller.register(link.monitor, zmq.POLLIN)

    def _disconnect(self, link: Link) -> None:
        self._links.remove(link)
        self._poller.unregister(link.socket)
        self._poller.unregister(link.monitor)
        link.close()

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        due_s = [link.next_due_s() for link in self._links]
        if self._stalled:
            due_s.append(now_s + STALL_S)
        if self._closing is not None:
            bounds = (*self._closing, self._heard_s + GONE_S)
            due_s.extend(due for due in bounds if due > now_s)
        return min(due_s, default=math.inf) - now_s
