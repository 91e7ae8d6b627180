"""A trainer's end of the stream: one thread, one poller, one ROUTER.

    sockets -> frames -> TrainerSide (pure) -> sink
                              |-> answers and credits -> sockets

The thread waits in its poller only: for messages (a generator unblocks it), for `wake()` (the
training loop, by sampling) and for the next silence check. It never waits for the pool, and every
send is non-blocking. Whoever waits in `drain` is unblocked by the last BYE, or by the deadline.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Final

import zmq

from online_synclr.stream.admission import Terms
from online_synclr.stream.doorman import Doorman
from online_synclr.stream.endpoints import Endpoint, bind
from online_synclr.stream.errors import StreamError
from online_synclr.stream.frames import pack
from online_synclr.stream.keys import KeyFolder
from online_synclr.stream.memory import keep_large_blocks
from online_synclr.stream.messages import MAX_HEADER_BYTES, MAX_TRAINERS, Progress, clip_text
from online_synclr.stream.peers import PeerView, ReceiverCounters
from online_synclr.stream.rings import Rings
from online_synclr.stream.sink import GroupSink
from online_synclr.stream.trainer_side import Outgoing, TrainerSide
from online_synclr.stream.wake import Wake, poll_ms

BURST: Final = 256
"""Messages read at most before credits are issued again."""

BURSTS_PER_CREDITS: Final = 4
"""They are issued again after so many groups as this part of a generator's credits: it goes on
writing while what it has sent is read, and yet a CREDIT is not sent for every group."""

FIRST_PROGRESS: Final = Progress(step=0)
"""Of a run in which nothing changes: its generators need not wait for more."""

FRAME_SLACK_BYTES: Final = 2 * MAX_HEADER_BYTES
QUEUE_SLACK: Final = 64
"""Room in the queues above the credits, for words that are not groups."""


class Receiver:
    """Feeds a sink with groups from any number of generators.

    Args:
        endpoint: where to listen; removed on `close`.
        run_id: generators of another run are refused.
        sink: asked for room and given the groups, in the receiver's thread.
        image_shape: (images, channels, height, width), uint8, of every group.
        trainer_index: this trainer's, for WELCOME.
        credits_per_generator: most groups one generator may have in flight to this trainer.
        silence_s: a peer silent for so long counts as dead.
        max_group_bytes: largest payload accepted.
        io_threads: that read from sockets; each connection is one's, which decrypts it too.
        clock: seconds, monotonic; for the silence.
        keys: only who holds one of these is let in; none: for Unix sockets in a private folder.
        say: told what people should know, from other threads too.
        shared_memory_bytes: for groups of generators that run where this trainer does; 0: none,
            and all groups come through the socket.
        progress: of the run, for generators that greet before `announce_progress`; none: they hear
            that it follows.

    Raises:
        StreamError: a group of `image_shape` exceeds `max_group_bytes`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        run_id: str,
        sink: GroupSink,
        *,
        image_shape: tuple[int, int, int, int],
        incarnation: int | None = None,
        num_launched: int = 0,
        trainer_index: int = 0,
        credits_per_generator: int = 16,
        silence_s: float = 30.0,
        max_group_bytes: int = 64 * 2**20,
        io_threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        keys: KeyFolder | None = None,
        say: Callable[[str], None] = lambda text: None,
        shared_memory_bytes: int = 0,
        progress: Progress | None = FIRST_PROGRESS,
    ) -> None:
        if prod(image_shape) > max_group_bytes:
            raise StreamError(
                f"groups have {prod(image_shape)} bytes, stream.max_group_bytes is "
                f"{max_group_bytes}; raise it or lower images.send_px or images.per_caption"
            )
        self._endpoint = endpoint
        self._keys = keys
        self._say = say
        self._doorman: Doorman | None = None
        self._sink = sink
        self._clock = clock
        # Handshakes are bound by it as well, so it is no larger than such groups need; the JPEG
        # of pure noise is larger than its pixels.
        self._max_frame_bytes = min(max_group_bytes, 2 * prod(image_shape)) + FRAME_SLACK_BYTES
        self._io_threads = io_threads
        self._burst = max(1, credits_per_generator // BURSTS_PER_CREDITS)
        self._queue_messages = credits_per_generator + QUEUE_SLACK
        # Guards _side: held while messages are handled, never while polling.
        self._changed = threading.Condition()
        self._rings: Rings | None = None
        if shared_memory_bytes:
            self._rings = Rings(
                image_shape=image_shape,
                num_slots=credits_per_generator,
                max_bytes=shared_memory_bytes,
                say=say,
            )
        self._side = TrainerSide(
            terms=Terms(
                run_id=run_id,
                image_shape=image_shape,
                incarnation=incarnation,
                num_launched=num_launched,
            ),
            sink=sink,
            credits_per_generator=credits_per_generator,
            silence_s=silence_s,
            trainer_index=trainer_index,
            rings=self._rings,
            progress=progress,
        )
        self._tasks: list[Callable[[], Sequence[Outgoing]]] = []
        self._stopping = False
        self._next_check_s = 0.0
        self._failure: BaseException | None = None
        self._address: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where generators connect; known once started."""
        if self._address is None:
            raise StreamError("the receiver has not been started")
        return self._address

    @property
    def running(self) -> bool:
        """Whether the thread is at work; False before `start`, after `close`, after a failure."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind and start the thread.

        Raises:
            StreamError: the address is taken or cannot be used.
        """
        keep_large_blocks()
        # Made here, not at import: a context must not cross a fork or spawn.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(self._io_threads)
        self._router = self._context.socket(zmq.ROUTER)
        self._set_options(self._router)
        try:
            if self._keys is not None:
                self._doorman = Doorman(self._context, self._router, self._keys, self._say)
            self._address = bind(self._router, self._endpoint)
        except BaseException:
            self._close_sockets()
            raise
        self._side.addresses = [self._address]
        if self._rings is not None:
            self._rings.probe()
        self._wake = Wake(self._context)
        self._sink.on_room(self._wake.wake)
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Tell generators that join from now on where all trainers are, by index.

        Call it before this trainer's address is made known: a generator is told once.

        Raises:
            StreamError: more trainers than a message may name.
        """
        if len(addresses) > MAX_TRAINERS:
            raise StreamError(f"{len(addresses)} trainers, at most {MAX_TRAINERS} are supported")
        with self._changed:
            self._side.addresses = list(addresses)
            self._side.complete = True

    def wake(self) -> None:
        """Have the thread look for room in the sink at once; from any thread."""
        self._wake.wake()

    def peers(self) -> list[PeerView]:
        """One view a generator. Raises StreamError if the thread has failed."""
        with self._changed:
            self._raise_failure()
            return self._side.views(self._clock())

    def counters(self) -> ReceiverCounters:
        """Totals over all peers; those up to its failure once the thread has failed."""
        with self._changed:
            counters = self._side.counters()
        if self._doorman is None:
            return counters
        return replace(counters, strangers=dict(self._doorman.strangers))

    def announce_end(self, reason: str = "the run is over", *, final: bool = True) -> None:
        """Ask every generator, and whoever joins later, to stop; issue no more credits.

        `final`: the run itself is over, not only this attempt.
        """
        with self._changed:
            self._tasks.append(lambda: self._side.announce_end(clip_text(reason), final=final))
        self._wake.wake()

    def announce_progress(self, progress: Progress) -> None:
        """Tell every engine how far the run is, and whoever joins later."""
        with self._changed:
            self._tasks.append(lambda: self._side.announce_progress(progress))
        self._wake.wake()

    def drain(self, timeout_s: float) -> bool:
        """Wait until no generator can send any more; False when `timeout_s` passed before.

        Waits for each engine's BYE, ERROR or silence. Groups that arrive are still inserted.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._failure is not None or (not self._tasks and self._side.live_engines == 0)
                ),
                timeout_s,
            )
            self._raise_failure()
            return self._side.live_engines == 0

    def close(self) -> None:
        """End the thread, close the sockets, remove the endpoint's folder. Idempotent."""
        if self._thread is None:
            return
        with self._changed:
            self._stopping = True
        self._wake.wake()
        self._thread.join()
        self._thread = None
        self._wake.close()
        self._close_sockets()
        self._endpoint.remove()
        if self._rings is not None:
            self._rings.close_all()

    def abandon(self) -> None:
        """Remove the endpoint's folder and nothing else: the process is ended out of turn."""
        self._endpoint.remove()

    def _close_sockets(self) -> None:
        if self._doorman is not None:
            self._doorman.close()
        self._router.close(linger=0)
        self._context.term()

    def _set_options(self, router: zmq.Socket[bytes]) -> None:
        # MANDATORY: a vanished peer is an error to handle, not a silent drop. No HANDOVER: whoever
        # asks for a routing id that is in use gets none.
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes)
        # A full queue would stop heartbeats and disconnect a live peer: keep it above the credits.
        router.setsockopt(zmq.RCVHWM, self._queue_messages)
        router.setsockopt(zmq.SNDHWM, self._queue_messages)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.TCP_KEEPALIVE, 1)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake.socket, zmq.POLLIN)
        if self._doorman is not None:
            poller.register(self._doorman.monitor, zmq.POLLIN)
        try:
            self._next_check_s = self._clock()
            while not self._stopping:
                self._handle_all()
                self._check_silence()
                poller.poll(poll_ms(self._next_check_s - self._clock()))
        except BaseException as error:  # anything uncaught is reported to whoever asks next
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _handle_all(self) -> None:
        """Read until nothing waits, asking for more groups after every burst."""
        self._wake.clear()
        if self._doorman is not None:
            self._doorman.on_events()
        more = True
        while more and not self._stopping:
            with self._changed:
                # In this order: whoever asks for a place after END was announced hears of it.
                tasks, self._tasks = self._tasks, []
                for task in tasks:
                    self._send(task())
                more = self._read_burst()
                self._send(self._side.issue_credits())
                self._changed.notify_all()
            # Bursts take from all connections in turn: a flood on one hides no silence of others.
            self._check_silence()

    def _read_burst(self) -> bool:
        enough = self._side.num_taken + self._burst
        for _ in range(BURST):
            if self._side.num_taken >= enough:
                return True
            try:
                frame = self._router.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return False
            # As recv_multipart does, at less than half of its cost: a frame knows of the next.
            route, frames = frame, []
            while frame.more:
                frame = self._router.recv(copy=False)
                frames.append(frame)
            buffers = [frame.buffer for frame in frames]
            name = self._doorman.name_of(frames[0]) if self._doorman is not None else None
            self._send(self._side.on_frames(route.bytes, buffers, self._clock(), name))
        return True

    def _check_silence(self) -> None:
        now_s = self._clock()
        if now_s < self._next_check_s:
            return
        self._next_check_s = now_s + self._side.check_interval_s
        with self._changed:
            self._side.check_silence(now_s)
            self._send(self._side.issue_credits())
            self._changed.notify_all()

    def _send(self, messages: Sequence[Outgoing]) -> None:
        for outgoing in messages:
            try:
                frames = [outgoing.route, *pack(outgoing.message)]
                self._router.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                self._side.on_unsent(outgoing, unreachable=False)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._side.on_unsent(outgoing, unreachable=True)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise StreamError(f"the receiver's thread failed: {self._failure!r}")

    def __enter__(self) -> "Receiver":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self.close()
