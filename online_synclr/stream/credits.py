"""Who may still send how many groups: a pure ledger, no sockets, no clock.

A credit is leased to one connection within one lease period. A period is opened by HELLO (or when a
peer thought dead speaks again) and closed when the peer ends or dies; closing takes back what was
not used. A group that arrives afterwards is late: it is discarded and counted here, once.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PeerKey = TypeVar("PeerKey", bound=Hashable)


@dataclass(slots=True)
class _Lease:
    number: int
    held: int = 0
    last_turn: int = 0


class CreditLedger(Generic[PeerKey]):
    """Credits leased per peer, at most `limit` each.

    `in_flight` is the sum of all leases: groups that may still arrive.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._leases: dict[PeerKey, _Lease] = {}
        self._opened = 0
        self._turn = 0
        self.in_flight = 0
        self.late = 0

    def open(self, peer: PeerKey) -> tuple[int, int]:
        """Start a new lease period: its number and the credits of the old one, now void."""
        reclaimed = self.close(peer)
        self._opened += 1
        self._leases[peer] = _Lease(self._opened)
        return self._opened, reclaimed

    def close(self, peer: PeerKey) -> int:
        """End the peer's period, if any: the credits taken back."""
        lease = self._leases.pop(peer, None)
        if lease is None:
            return 0
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
        order = [
            (lease.held, lease.last_turn, index, peer)
            for index, (peer, lease) in enumerate(self._leases.items())
            if lease.held < self._limit
        ]
        heapq.heapify(order)
        for _ in range(max(0, num_credits)):
            if not order:
                break
            _, _, index, peer = heapq.heappop(order)
            lease = self._leases[peer]
            self._turn += 1
            lease.held, lease.last_turn = lease.held + 1, self._turn
            grants[peer] = grants.get(peer, 0) + 1
            if lease.held < self._limit:
                heapq.heappush(order, (lease.held, lease.last_turn, index, peer))
        self.in_flight += sum(grants.values())
        return grants

    def withdraw(self, peer: PeerKey, num_credits: int) -> int:
        """Take back credits whose message could not be sent: how many."""
        lease = self._leases.get(peer)
        if lease is None:
            return 0
        taken = min(num_credits, lease.held)
        lease.held -= taken
        self.in_flight -= taken
        return taken

    def spend(self, peer: PeerKey, number: int | None = None) -> bool:
        """A group arrived under period `number` (none: unreadable header, the open one).

        False: the credit was taken back before, or never given; the group must be discarded.
        """
        lease = self._leases.get(peer)
        if lease is None or lease.held == 0 or number not in (None, lease.number):
            self.late += 1
            return False
        lease.held -= 1
        self.in_flight -= 1
        return True
