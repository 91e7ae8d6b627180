"""Which slots of a ring may be read: pure bookkeeping, no memory, no clock.

A credit is a slot. The groups that a peer sends under one lease period have the positions 0, 1, 2,
..., and position p lies in slot p mod `num_slots`. A peer never holds more credits than there are
slots, so when it may send p + num_slots, the group at p has been read: a slot in use is never
written over by who keeps to its credits.

What the peer says is bounded on both sides: a position below `first` was read before, one at `end`
or above has no credit.
"""

from online_synclr.stream.errors import MalformedMessage


class SlotWindow:
    """Positions from `first` to below `end` may be read, each once and in their order."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.first = 0
        self.end = 0

    def grant(self, num_credits: int) -> None:
        """So many more groups may come; a negative number: so many credits never reached it."""
        self.end += num_credits

    def take(self, position: int) -> int:
        """The slot of a group that arrived; positions left out (its groups were lost) are over.

        Raises:
            MalformedMessage: nothing may lie there (`slot`).
        """
        if not self.first <= position < self.end:
            raise MalformedMessage("slot", f"{position}, not from {self.first} to {self.end - 1}")
        self.first = position + 1
        return position % self.num_slots
