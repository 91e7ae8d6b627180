"""Wake a thread that waits in a poller, from any other thread."""

import contextlib
import math
import threading
from typing import Final

import zmq

LONGEST_POLL_S: Final = 3600.0


class Wake:
    """An inproc PAIR: `socket` belongs to the polling thread, `wake()` to everyone.

    Wakes that come before the thread has looked are one wake.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        address = f"inproc://wake-{id(self):x}"
        self.socket = context.socket(zmq.PAIR)
        self.socket.bind(address)
        self._sender = context.socket(zmq.PAIR)
        self._sender.connect(address)
        self._lock = threading.Lock()
        self._pending = False
        self._unread = 0
        self._closed = False

    def wake(self) -> None:
        """Make the polling thread return from its poll; does nothing once closed."""
        with self._lock:
            if self._pending or self._closed:
                return
            self._pending = True
            self._sender.send(b"", zmq.DONTWAIT)

    def clear(self) -> None:
        """Polling thread: take the wake; whatever was asked for before it is now visible."""
        with self._lock:
            self._unread += self._pending
            self._pending = False
            # Asking in vain costs an exception, and this is asked before every message.
            if self._unread:
                with contextlib.suppress(zmq.Again):
                    self.socket.recv(zmq.DONTWAIT)
                    self._unread -= 1

    def close(self) -> None:
        """Close both ends; the polling thread must have ended. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._sender.close(linger=0)
            self.socket.close(linger=0)


def poll_ms(wait_s: float) -> int:
    """`wait_s` for a poller: rounded up, so that nothing spins in the last millisecond."""
    return math.ceil(1000 * min(max(0.0, wait_s), LONGEST_POLL_S))
