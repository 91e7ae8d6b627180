"""Who may still send how many groups: pure bookkeeping, no sockets, no clock.

A credit is leased to one connection within one lease period. A period is opened by HELLO (or when a
peer thought dead speaks again) and closed when the peer ends or dies; closing takes back what was
not used. A group that arrives afterwards is late: it is discarded and counted here, once.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PeerKey = TypeVar("PeerKey", bound=Hashable)


@dataclass(slots=True)
class _Lease:
    number: int
    held: int = 0


class CreditBook(Generic[PeerKey]):
    """Credits leased per peer, at most `limit` each.

    `in_flight` is the sum of all leases: groups that may still arrive. Nothing here grows with the
    number of peers but memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._leases: dict[PeerKey, _Lease] = {}
        self._opened = 0
        # Peers by credits held, fewer than `limit`; of each, who came to hold so many first is
        # first. So the next to be given one is found without looking at the others.
        self._waiting: defaultdict[int, OrderedDict[PeerKey, None]] = defaultdict(OrderedDict)
        self._fewest = 0
        self.in_flight = 0
        self.late = 0

    def open(self, peer: PeerKey) -> tuple[int, int]:
        """Start a new lease period: its number and the credits of the old one, now void."""
        reclaimed = self.close(peer)
        self._opened += 1
        self._leases[peer] = lease = _Lease(self._opened)
        self._wait(peer, lease)
        return self._opened, reclaimed

    def close(self, peer: PeerKey) -> int:
        """End the peer's period, if any: the credits taken back."""
        lease = self._leases.pop(peer, None)
        if lease is None:
            return 0
        self._stop_waiting(peer, lease)
        self.in_flight -= lease.held
        return lease.held

    def lease_of(self, peer: PeerKey) -> int | None:
        """Number of the peer's open period."""
        lease = self._leases.get(peer)
        return None if lease is None else lease.number

    def held(self, peer: PeerKey) -> int:
        """Credits the peer has not used yet."""
        lease = self._leases.get(peer)
        return 0 if lease is None else lease.held

    def assign(self, num_credits: int) -> dict[PeerKey, int]:
        """Lease up to `num_credits` more, one by one, to whoever holds fewest.

        Among equals to whoever waited longest. So load follows demand: who sends faster holds
        fewer and is given more.
        """
        grants: dict[PeerKey, int] = {}
        for _ in range(num_credits):
            peer = self._next()
            if peer is None:
                break
            self._hold(peer, self._leases[peer], 1)
            grants[peer] = grants.get(peer, 0) + 1
        return grants

    def withdraw(self, peer: PeerKey, num_credits: int) -> int:
        """Take back credits whose message could not be sent: how many."""
        lease = self._leases.get(peer)
        if lease is None:
            return 0
        taken = min(num_credits, lease.held)
        self._hold(peer, lease, -taken)
        return taken

    def spend(self, peer: PeerKey, number: int | None = None) -> bool:
        """A group arrived under period `number` (none: unreadable header, the open one).

        False: the credit was taken back before, or never given; the group must be discarded.
        """
        lease = self._leases.get(peer)
        if lease is None or lease.held == 0 or number not in (None, lease.number):
            self.late += 1
            return False
        self._hold(peer, lease, -1)
        return True

    def _hold(self, peer: PeerKey, lease: _Lease, more: int) -> None:
        self._stop_waiting(peer, lease)
        lease.held += more
        self.in_flight += more
        self._wait(peer, lease)

    def _wait(self, peer: PeerKey, lease: _Lease) -> None:
        if lease.held < self._limit:
            self._waiting[lease.held][peer] = None
            self._fewest = min(self._fewest, lease.held)

    def _stop_waiting(self, peer: PeerKey, lease: _Lease) -> None:
        if lease.held < self._limit:
            del self._waiting[lease.held][peer]

    def _next(self) -> PeerKey | None:
        """Who holds fewest, for longest."""
        while self._fewest < self._limit:
            waiting = self._waiting[self._fewest]
            if waiting:
                return next(iter(waiting))
            self._fewest += 1
        return None
