"""What must hold in a run folder after a job whose ranks were killed."""

import logging
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from online_synclr.ledger.reading import read_ledger
from online_synclr.ledger.totals import count_ledger
from online_synclr.monitor import metrics
from online_synclr.monitor.jsonl import read_jsonl
from online_synclr.monitor.summary import Summary
from online_synclr.run_folder import RunFolder

WINDOW_STEPS = 10
"""Losses averaged on each side of a place in the curve."""

SIGMAS = 4.0


def losses(folder: RunFolder) -> dict[int, float]:
    """The loss of every logged step."""
    rows = read_jsonl(folder.metrics)
    return {row["step"]: row[metrics.LOSS_TOTAL] for row in rows if metrics.LOSS_TOTAL in row}


def step_after(curve: dict[int, float], step: int) -> float:
    """By how much the mean loss rises from the `WINDOW_STEPS` up to `step` to those after it."""
    after = [curve[step + 1 + index] for index in range(WINDOW_STEPS)]
    before = [curve[step - index] for index in range(WINDOW_STEPS)]
    return statistics.fmean(after) - statistics.fmean(before)


def usual_steps(curve: dict[int, float], resumed_at: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of `step_after` where no window touches a resumed step."""
    places = range(WINDOW_STEPS, len(curve) - WINDOW_STEPS + 1)
    quiet = [
        step_after(curve, place)
        for place in places
        if all(abs(place - step) >= WINDOW_STEPS for step in resumed_at)
    ]
    return statistics.fmean(quiet), statistics.stdev(quiet)


def curve_breaks(curve: dict[int, float], resumed_at: Sequence[int]) -> list[str]:
    """Where the loss rises after a resume by more than it does elsewhere by chance."""
    mean, deviation = usual_steps(curve, resumed_at)
    most = mean + SIGMAS * deviation
    inside = [s for s in resumed_at if WINDOW_STEPS <= s <= len(curve) - WINDOW_STEPS]
    return [
        f"the loss rises by {step_after(curve, step):.3f} after step {step}, more than {most:.3f}"
        for step in inside
        if step_after(curve, step) > most
    ]


def logged_wrongly(folder: RunFolder, steps: int) -> list[str]:
    """Steps that metrics.jsonl or TensorBoard lack or have twice."""
    wanted = list(range(1, steps + 1))
    rows = [row["step"] for row in read_jsonl(folder.metrics) if metrics.LOSS_TOTAL in row]
    # It tells of every resume, at length.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
    board.Reload()
    shown = sorted(event.step for event in board.Scalars(metrics.LOSS_TOTAL))
    return [
        f"{name} has {_difference(found, wanted)}"
        for name, found in (("metrics.jsonl", rows), ("TensorBoard", shown))
        if found != wanted
    ]


def counted_wrongly(
    summary: Summary,
    *,
    steps: int,
    batch_groups: int,
    attempts: int,
    thrown_away_steps: int,
    max_reuse: int,
) -> list[str]:
    """What of the summary is not what was seen from outside."""
    wrong = summary.check_identities()
    if summary.group_uses > max_reuse * summary.groups_trained:
        wrong.append(f"{summary.group_uses} uses of {summary.groups_trained} groups, too many")
    expected = {
        "steps": steps,
        "group_uses": steps * batch_groups,
        "attempts": attempts,
        "thrown_away_steps": thrown_away_steps,
    }
    found = {name: getattr(summary, name) for name in expected}
    return wrong + [f"{name} is {found[name]}, not {n}" for name, n in expected.items()
                    if found[name] != n]  # fmt: skip


def recorded_wrongly(run_dir: Path, summary: Summary, *, max_reuse: int) -> list[str]:
    """What of the ledger contradicts the summary, or says that seeds or groups were used too often.

    Reads the whole ledger, of all attempts, what was thrown away included.
    """
    totals = count_ledger(read_ledger(run_dir))
    # What is not whole at a file's end was being written by a process that was killed.
    damages = [(path.name, damage) for path, damage in totals.damages if not damage.is_tail]
    checks = {
        f"{totals.duplicates} seed keys occur twice in the ledger": totals.duplicates == 0,
        f"a group was used {totals.most_uses} times": 0 < totals.most_uses <= max_reuse,
        f"the ledger is damaged: {damages[:3]}": not damages,
        f"{totals.missing} groups are missing in the ledger": totals.missing == 0,
        f"the ledger has {totals.groups} groups and {totals.uses} uses, the summary "
        f"{summary.groups_trained} and {summary.group_uses}": (totals.groups, totals.uses)
        == (summary.groups_trained, summary.group_uses),
    }
    return [sentence for sentence, holds in checks.items() if not holds]


def _difference(found: Sequence[int], wanted: Sequence[int]) -> str:
    counts = Counter(found)
    twice = [step for step, count in counts.items() if count > 1]
    missing = [step for step in wanted if step not in counts]
    order = "" if twice or missing else "; the order is wrong"
    return f"twice {twice[:5]}, missing {missing[:5]}{order}"
