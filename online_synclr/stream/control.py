"""The supervisor's line to a trainer: it speaks when the engine cannot.

An engine that loads weights or has died sends nothing; the supervisor's thread keeps the heartbeat
and reports the error. The thread waits in its poller only: for the trainer's messages, for the next
heartbeat and for calls of the methods below, which wake it.
"""

import threading
import time
from collections import deque
from typing import Final

import zmq

from online_synclr.stream.keys import GeneratorKey
from online_synclr.stream.link import Link
from online_synclr.stream.messages import (
    Error,
    Hello,
    PeerState,
    check_counters,
    clip_text,
)
from online_synclr.stream.wake import Wake, poll_ms

MAX_ERRORS: Final = 64
"""Errors kept while no trainer can be reached; the newest beyond that are dropped."""


class ControlClient:
    """STATUS and ERROR on behalf of one generator, over one connection that heals itself.

    The thread starts with the object. `end_seen` is set by the trainer's END, or by one that
    belongs to a later attempt; `comes_back`: the attempt is over, but not the run. `rejected` holds
    the reason if it refused the generator, `connected` whether it listens to it now.

    Args:
        address: of a trainer.
        hello: with role "control".
        heartbeat_s: STATUS is repeated at least this often.
        key: to connect with, for trainers that listen on TCP.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        *,
        heartbeat_s: float = 2.0,
        key: GeneratorKey | None = None,
    ) -> None:
        if hello.role != "control":
            raise ValueError(f"hello has role {hello.role!r}, not control")
        self.end_seen = threading.Event()
        self.rejected: str | None = None
        self.comes_back = False
        self.connected = False
        self._address = address
        self._hello = hello
        self._heartbeat_s = heartbeat_s
        self._key = key
        self._lock = threading.Lock()
        self._teardown = threading.Lock()
        self._state: PeerState = "loading"
        self._counters: dict[str, float] = {}
        self._fresh = False
        self._errors: deque[Error] = deque()
        self._closing_until_s: float | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake = Wake(self._context)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def status(self, state: PeerState, counters: dict[str, float]) -> None:
        """Send STATUS now and repeat it at every heartbeat.

        Raises:
            ValueError: counters that a message cannot carry.
        """
        check_counters(counters)
        with self._lock:
            self._state, self._counters, self._fresh = state, dict(counters), True
        self._wake.wake()

    def error(self, message: str, stream: int | None = None) -> None:
        """Report that the engine with that `stream` is dead (none: the whole generator).

        The trainer takes back its credits at once. Kept until it can be sent.
        """
        with self._lock:
            if len(self._errors) < MAX_ERRORS:
                self._errors.append(Error(message=clip_text(message), stream=stream))
        self._wake.wake()

    def close(self, goodbye_s: float = 5.0) -> bool:
        """Say BYE and wait up to `goodbye_s` for its acknowledgement; True if it came.

        A trainer that is not connected is not waited for.
        """
        with self._lock:
            if self._closing_until_s is None:
                self._closing_until_s = time.monotonic() + goodbye_s
        self._wake.wake()
        self._thread.join()
        with self._teardown:
            self._wake.close()
            self._context.term()
        return self._link.bye_acked

    def _run(self) -> None:
        self._link = link = Link(
            self._context,
            self._address,
            self._hello,
            heartbeat_s=self._heartbeat_s,
            key=self._key,
        )
        poller = zmq.Poller()
        for socket in (self._wake.socket, link.socket, link.monitor):
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._step(link):
                poller.poll(poll_ms(self._pause_s(link)))
        finally:
            link.close()

    def _step(self, link: Link) -> bool:
        self._wake.clear()
        link.on_events()
        for _ in link.on_messages():
            pass
        self.connected = link.welcomed
        over = link.ended is not None or (link.rejected is not None and link.comes_back)
        if over and not self.end_seen.is_set():
            # In this order: whoever sees the end finds what kind it is.
            self.comes_back = link.comes_back
            self.end_seen.set()
        if link.rejected is not None:
            self.rejected = None if link.comes_back else link.rejected
            self.connected = False
            return True
        self._send_errors(link)
        with self._lock:
            state, counters, closing_until_s = self._state, self._counters, self._closing_until_s
            fresh, self._fresh = self._fresh, False
        now_s = time.monotonic()
        link.tend(state, counters, now_s, at_once=fresh)
        if closing_until_s is None:
            return False
        if link.welcomed and not link.bye_sent:
            link.send_bye(counters)
        return link.bye_acked or not link.welcomed or now_s >= closing_until_s

    def _send_errors(self, link: Link) -> None:
        with self._lock:
            while link.welcomed and self._errors and link.send(self._errors[0]):
                self._errors.popleft()

    def _pause_s(self, link: Link) -> float:
        now_s = time.monotonic()
        until_s = link.next_due_s()
        if self._closing_until_s is not None:
            until_s = min(until_s, self._closing_until_s)
        return until_s - now_s
