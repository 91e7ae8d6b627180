"""The supervisor's lines to all the trainers that its engine serves."""

import threading
from collections.abc import Sequence
from typing import Protocol

from online_synclr.stream.messages import PeerState


class ControlLine(Protocol):
    """One connection; see `online_synclr.stream.control.ControlClient`."""

    rejected: str | None
    comes_back: bool
    connected: bool

    @property
    def end_seen(self) -> "EventLike":
        """Set by the trainer's END."""

    def status(self, state: PeerState, counters: dict[str, float]) -> None:
        """Heartbeat."""

    def error(self, message: str, stream: int | None = None) -> None:
        """An engine, or the generator, has failed."""

    def close(self, goodbye_s: float = 5.0) -> bool:
        """Say BYE."""


class EventLike(Protocol):
    """The one method of threading.Event that is needed."""

    def is_set(self) -> bool:
        """Whether it happened."""


class ControlGroup:
    """Says the same to every trainer: each takes back the credits of a dead engine at once."""

    def __init__(self, lines: Sequence[ControlLine]) -> None:
        self._lines = list(lines)

    @property
    def ended(self) -> bool:
        """Whether any trainer said END: the attempt is over."""
        return any(line.end_seen.is_set() for line in self._lines)

    @property
    def comes_back(self) -> bool:
        """Once `ended`: whether the run may be started again."""
        return all(line.comes_back for line in self._lines if line.end_seen.is_set())

    @property
    def connected(self) -> bool:
        """Whether any trainer listens."""
        return any(line.connected for line in self._lines)

    @property
    def rejected(self) -> str | None:
        """The first refusal, if there is one."""
        reasons = [line.rejected for line in self._lines if line.rejected is not None]
        return reasons[0] if reasons else None

    def status(self, state: PeerState, counters: dict[str, float]) -> None:
        """Heartbeat to all."""
        for line in self._lines:
            line.status(state, counters)

    def error(self, message: str, stream: int | None = None) -> None:
        """Tell all that an engine (or, without `stream`, this generator) has failed."""
        for line in self._lines:
            line.error(message, stream)

    def close(self, goodbye_s: float) -> None:
        """Say BYE to all; waits up to `goodbye_s` for those that are connected."""
        closing = [
            threading.Thread(target=line.close, args=(goodbye_s,), daemon=True)
            for line in self._lines
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
