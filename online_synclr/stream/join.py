"""A generator that torchrun has not started asks a running job for a place.

    JOIN -> any trainer -> TICKET: run id, incarnation, a number of its own, all trainers' addresses

Waits for the trainer, which may not be there yet, or just be starting again.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

import zmq

from online_synclr.stream.errors import StreamRejected
from online_synclr.stream.keys import GeneratorKey
from online_synclr.stream.link import Link
from online_synclr.stream.messages import Join, Ticket
from online_synclr.stream.wake import poll_ms

LOOK_S: Final = 0.25
"""How often `stopping` is asked."""

ASK_AGAIN_S: Final = 2.0


class RunOverError(Exception):
    """The job that was asked is finished; the message says why."""


def ask_for_place(
    address: str, join: Join, *, key: GeneratorKey | None, stopping: Callable[[], bool]
) -> Ticket | None:
    """Wait for a place; None: `stopping` said so before.

    Raises:
        StreamRejected: the trainer refused, with the reason.
        RunOverError: the run is finished.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(context, address, join, heartbeat_s=ASK_AGAIN_S, key=key)
    try:
        poller = zmq.Poller()
        for socket in (link.socket, link.monitor):
            poller.register(socket, zmq.POLLIN)
        while not stopping():
            link.on_events()
            for _ in link.on_messages():
                pass
            if link.ticket is not None:
                return link.ticket
            if link.rejected is not None and not link.comes_back:
                raise StreamRejected(link.rejected)
            if link.ended is not None and not link.comes_back:
                raise RunOverError(link.ended)
            link.tend("loading", {}, monotonic())
            poller.poll(poll_ms(min(LOOK_S, link.next_due_s() - monotonic())))
        return None
    finally:
        link.close()
        context.term()
