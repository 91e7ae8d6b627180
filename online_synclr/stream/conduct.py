"""Which connections keep sending what is not of this protocol: pure counting.

A flipped bit happens to anybody; a connection is cut off once it has sent `MAX_FAULTS` malformed
messages and more of them than good ones. ZeroMQ cannot close one connection of many, so cut off
means that nothing more of it is read and that it was told so.
"""

from dataclasses import dataclass
from typing import Final

MAX_FAULTS: Final = 100
MAX_ROUTES: Final = 512
"""Connections whose faults are remembered; one more, and the oldest of them is forgotten."""


@dataclass(slots=True)
class _Record:
    good: int = 0
    bad: int = 0


class Conduct:
    """Faults by route. Routes without any cost nothing."""

    def __init__(self) -> None:
        self._records: dict[bytes, _Record] = {}

    def good(self, route: bytes) -> None:
        """A message that could be read and was expected."""
        record = self._records.get(route)
        if record is not None and not _is_cut_off(record):
            record.good += 1

    def bad(self, route: bytes) -> bool:
        """A fault; whether it was the one too many."""
        record = self._records.get(route)
        if record is None:
            if len(self._records) >= MAX_ROUTES:
                del self._records[next(iter(self._records))]
            record = self._records[route] = _Record()
        before = _is_cut_off(record)
        record.bad += 1
        return not before and _is_cut_off(record)

    def cut_off(self, route: bytes) -> bool:
        """Whether nothing more of this connection is read."""
        record = self._records.get(route)
        return record is not None and _is_cut_off(record)


def _is_cut_off(record: _Record) -> bool:
    return record.bad >= MAX_FAULTS and record.bad > record.good
