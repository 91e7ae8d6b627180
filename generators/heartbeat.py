"""A thread that tells how the engine stands, at least every `every_s` seconds."""

import threading
from collections.abc import Callable

from online_synclr.stream.messages import PeerState


class Heartbeat:
    """Calls `tell(state)` on its own thread, at once when the state changes.

    It waits for the next beat; a change of state and `close` unblock it.
    """

    def __init__(self, tell: Callable[[PeerState], None], *, every_s: float) -> None:
        self._tell = tell
        self._every_s = every_s
        self._state: PeerState = "loading"
        self._changed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def set_state(self, state: PeerState) -> None:
        """Tell the new state now."""
        self._state = state
        self._changed.set()

    def close(self) -> None:
        """Tell once more and end."""
        self._closed = True
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            self._tell(self._state)
            if self._closed:
                return
            self._changed.wait(self._every_s)
