"""What the receiver feeds: the seam between the stream and a trainer's memory."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from online_synclr.stream.group import Group


class GroupSink(Protocol):
    """Takes groups in and says how many may be asked for. Called from the receiver's thread.

    No method may block on anything but a short lock: the receiver serves every peer.
    """

    def credits_to_issue(self, in_flight: int) -> int:
        """How many more groups may be asked for, now that `in_flight` are on their way.

        The receiver calls it again after issuing, so the sink always hears the true number; it
        must have room for that many.
        """
        ...

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """Memory for the images of the next group inserted: uint8, contiguous, of `shape`.

        The stream writes there, and to nothing else, between this and `insert`. If no group comes
        of it (a payload that is none), the next one is written over it.
        """
        ...

    def insert(self, group: Group) -> None:
        """One of the groups in flight arrived, in `place`; a credit reserved its room."""
        ...

    def reclaim(self, num_credits: int) -> None:
        """So many credits were taken back: their groups will not be inserted."""
        ...

    def on_room(self, wake: Callable[[], None]) -> None:
        """Remember `wake`, to be called from any thread whenever more may be asked for."""
        ...
