"""Telling the loss of another trainer from every other failure.

A collective whose peer is gone raises in gloo, in torch's own words, and waits for ever in NCCL,
where the grace of a stop request ends it (`trainer.stop`). A checkpoint needs all trainers: their
counts and random states are part of it. So those that remain leave without one, and the run goes
on from the newest complete one.
"""

import contextlib
import re
from collections.abc import Iterator

import torch.distributed as dist

_GONE = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket closed|remote process|"
    r"recvvalue failed|sendbytes failed|failed to recv|connect.*timed? ?out",
    re.IGNORECASE,
)


class LostTrainerError(RuntimeError):
    """Another trainer is gone; the message is its collective's, on one line."""


@contextlib.contextmanager
def naming_lost_trainers() -> Iterator[None]:
    """Turn what torch raises for a vanished peer into `LostTrainerError`; the rest passes.

    Raises:
        LostTrainerError: a collective inside the block failed because its peer is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if is_lost_trainer(error):
            raise LostTrainerError(_in_short(error)) from error
        raise


def _in_short(error: RuntimeError) -> str:
    """Torch's first sentence, without the place in its source."""
    line = str(error).splitlines()[0]
    return re.sub(r"^\[[^]]*\] *", "", line).split(". ")[0]


def is_lost_trainer(error: RuntimeError) -> bool:
    """Whether torch means that a peer, or torchrun's store, does not answer any more."""
    if isinstance(error, dist.DistNetworkError):
        return True
    # gloo raises plain RuntimeErrors whose text starts with its source file.
    of_collective = isinstance(error, dist.DistError) or "gloo" in str(error)
    return of_collective and _GONE.search(str(error)) is not None
