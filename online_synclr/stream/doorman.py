"""Who gets in at a trainer's door: CURVE on its socket, and a count of whoever is turned away.

    stranger -> libzmq's handshake -> asks (ZAP, RFC 27) the doorman's thread: is the key known?
    handshakes that fail -> the socket's monitor -> counts, by reason

Nothing of a connection that was not let in reaches the receiver. Keys may be added to the folder
and removed from it at any time.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from online_synclr.stream.keys import KeyFolder, KeysError

DOMAIN: Final = "groups"
HANDSHAKE_MS: Final = 10_000
"""A connection that says nothing for so long is dropped."""

LOOK_EVERY_S: Final = 1.0
"""So soon a key that was removed no longer counts."""

MAX_SAID: Final = 100

_FAILURES: Final = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)
# ZMQ_PROTOCOL_ERROR_ZMTP_* of zmq.h, which pyzmq does not name.
_CRYPTOGRAPHIC: Final = 0x11000001
_MECHANISM_MISMATCH: Final = 0x11000002

SAYINGS: Final = {
    "no_key": "somebody without a key tried to connect",
    "foreign_key": "somebody with another run's keys, or on a line that garbles, tried to connect",
    "unknown_key": "somebody whose key is not, or no longer, among this run's tried to connect",
    "handshake": "somebody broke off while connecting, or does not speak this protocol",
}


class Doorman:
    """Guards one ROUTER; make it before the socket is bound.

    Args:
        keys: of the run; read again whenever a file of it is added or removed.
        say: told once of every kind of stranger.

    Raises:
        KeysError: the keys cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[Any],
        keys: KeyFolder,
        say: Callable[[str], None],
    ) -> None:
        self.strangers: Counter[str] = Counter()
        self._keys = keys
        self._say = say
        self._router = router
        # Names are asked for by the authenticator's thread and by the receiver's.
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._state = keys.state()
        self._names = keys.names()
        self._looked_at_s = time.monotonic()
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.trainers().secret.encode())
        router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        # Without it libzmq lets everybody in while no one answers for the domain.
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, credentials_provider=self)
        self.monitor = router.get_monitor_socket(_FAILURES)

    def callback(self, _domain: str, public: bytes) -> bool:
        """Whether the holder of that key may come in; asked by the authenticator's thread."""
        try:
            return self._name(public.decode(), now=True) is not None
        except Exception as error:  # an exception would end the thread, and nobody could come in
            self._say(f"a key could not be looked up, so its holder was turned away: {error!r}")
            return False

    def name_of(self, frame: zmq.Frame) -> str:
        """The name of the key that a received frame's connection has; empty: taken back."""
        return self._name(str(frame.get("User-Id"))) or ""

    def on_events(self) -> None:
        """Count what the monitor reported."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, zmq.DONTWAIT)
                self._count(_reason(event["event"], event["value"]))

    def close(self) -> None:
        """End the thread; before the router is closed."""
        self._router.disable_monitor()
        self.monitor.close(linger=0)
        if self._authenticator.is_alive():
            self._authenticator.stop()

    def _count(self, reason: str) -> None:
        self.strangers[reason] += 1
        if self.strangers[reason] == 1:
            self._say(f"{SAYINGS[reason]}: not let in; others like it are only counted")

    def _name(self, public: str, *, now: bool = False) -> str | None:
        with self._lock:
            now_s = time.monotonic()
            if now or now_s - self._looked_at_s >= LOOK_EVERY_S:
                self._looked_at_s = now_s
                self._read_again()
            return self._names.get(public)

    def _read_again(self) -> None:
        try:
            state = self._keys.state()
            if state == self._state:
                return
            self._names, faults = self._keys.read_generators()
            self._state = state
        except KeysError as error:
            # A folder that is gone for a moment takes no permission back.
            self._say_once(f"the keys in force stay: {error}")
            return
        for fault in faults:
            self._say_once(f"a key does not count: {fault}")

    def _say_once(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            self._say(text)


def _reason(event: int, value: int) -> str:
    if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
        return "unknown_key"
    if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
        if value == _MECHANISM_MISMATCH:
            return "no_key"
        if value == _CRYPTOGRAPHIC:
            return "foreign_key"
    return "handshake"
