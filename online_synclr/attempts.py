"""What attempts a run had: one line each in `attempts.jsonl`, written before its first step.

An attempt that is killed takes the steps after its last checkpoint along, with all that was counted
in them: the next one starts where the checkpoint stands, in counts too. How many steps were thrown
away in this way stands here, since no checkpoint can know it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a run. `time_s`: wall clock. `thrown_away_steps`: logged by the attempt before
    it, after the checkpoint that this one continues from.
    """

    incarnation: int
    time_s: float
    start_step: int
    thrown_away_steps: int
    num_trainers: int
    num_generators: int


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """All attempts so far, added up. `incarnation`: the latest one's; 0: not known."""

    attempts: int = 1
    thrown_away_steps: int = 0
    incarnation: int = 0


def note_attempt(path: Path, attempt: Attempt) -> Attempts:
    """Append an attempt, durably, and return the sums with it.

    Raises:
        OSError: the file cannot be written.
    """
    before = list(read_attempts(path))
    with path.open("ab") as handle:
        # A line that a crash tore must not swallow this one.
        torn = path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        handle.write((b"\n" if torn else b"") + msgspec.json.encode(attempt) + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    return add_up([*before, attempt])


def read_attempts(path: Path) -> Iterator[Attempt]:
    """The attempts noted so far; a torn line is passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(line, type=Attempt)


def add_up(attempts: list[Attempt]) -> Attempts:
    """How many there were (at least one), and what they threw away."""
    return Attempts(
        attempts=len(attempts),
        thrown_away_steps=sum(one.thrown_away_steps for one in attempts),
        incarnation=attempts[-1].incarnation,
    )
