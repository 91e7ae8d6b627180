"""Groups rendered but not sent: what the renderer fills and the sender's thread empties.

`put` waits for room: the sender's thread makes it by sending, once a trainer has issued credits;
`stop` and `fail` unblock it for good.
"""

import threading
from collections import deque

from online_synclr.stream.group import Group
from online_synclr.stream.waiting import WaitClock


class Outbox:
    """A bounded queue of `capacity` groups whose waiting is counted.

    Every group offered is taken and later sent, or counted in `unsent`, or handed back (False)
    because the time was up.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._groups: deque[Group] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: Exception | None = None
        self._unsent = 0
        self._in_hand = 0
        self.wait = WaitClock()

    def __len__(self) -> int:
        with self._changed:
            return len(self._groups)

    @property
    def unsent(self) -> int:
        """Groups that will never be sent."""
        with self._changed:
            return self._unsent

    def put(self, group: Group, timeout_s: float) -> bool:
        """Queue a group, waiting up to `timeout_s` for room; False if there was none.

        After `stop` it returns False at once and counts the group as unsent.

        Raises:
            Exception: what `fail` was given.
        """
        with self._changed:
            if not self._has_room_or_ended():
                with self.wait.waiting():
                    self._changed.wait_for(self._has_room_or_ended, timeout_s)
            if self._failure is not None:
                raise self._failure
            if self._stopped:
                self._unsent += 1
                return False
            if not self._has_room():
                return False
            self._groups.append(group)
            return True

    def wait_sent(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until nothing is queued or in hand; whether that is so.

        Waits for credits, as `put` does, and counts it the same.

        Raises:
            Exception: what `fail` was given.
        """
        with self._changed:
            if not self._is_empty():
                with self.wait.waiting():
                    self._changed.wait_for(self._is_empty, timeout_s)
            if self._failure is not None:
                raise self._failure
            return self._is_empty()

    def take(self, most: int) -> list[Group]:
        """Take up to `most` groups in hand, oldest first; `sent` or `put_back` must follow.

        Groups in hand are not counted by `stop`: only their sender knows what becomes of them.
        """
        with self._changed:
            taken = [self._groups.popleft() for _ in range(min(most, len(self._groups)))]
            self._in_hand = len(taken)
            return taken

    def sent(self) -> None:
        """What was in hand is on its way: there is room for as many others."""
        with self._changed:
            self._changed.notify(self._in_hand)
            self._in_hand = 0

    def put_back(self, *groups: Group) -> None:
        """What was in hand could not be sent now; these are the oldest again, in their order."""
        with self._changed:
            self._in_hand = 0
            if self._stopped:
                self._unsent += len(groups)
            else:
                self._groups.extendleft(reversed(groups))

    def stop(self) -> None:
        """Take no more groups; those queued count as unsent. Idempotent."""
        with self._changed:
            self._stopped = True
            self._unsent += len(self._groups)
            self._groups.clear()
            self._changed.notify_all()

    def fail(self, failure: Exception) -> None:
        """Stop, and have `put` raise `failure`. The first failure stays."""
        with self._changed:
            self._failure = self._failure or failure
        self.stop()

    def _has_room_or_ended(self) -> bool:
        return self._stopped or self._has_room()

    def _is_empty(self) -> bool:
        return not self._groups and not self._in_hand

    def _has_room(self) -> bool:
        return len(self._groups) + self._in_hand < self._capacity
