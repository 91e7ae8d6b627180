"""How an attempt ends: END to the generators, their goodbye, a checkpoint, kNN, the summary.

Draining waits for the generators' BYEs, which END asks them for, and for no longer than
`generators.goodbye_s` or half of the grace after a stop request. A stop request saves first: a
slow goodbye must not cost the checkpoint.
"""

import json
import math
import sys
import time

from online_synclr.process_control import GOES_ON
from online_synclr.run_folder import write_durably
from online_synclr.stream.errors import StreamError
from trainer.assembly import Built, StreamEnd
from trainer.closing import Ending, summarise
from trainer.report import Merged
from trainer.step_meter import DivergedLossError
from trainer.stop import StopRequest
from trainer.vote import Decision, StopCause

ALL_DONE = "all steps done"
PART_DONE = "the steps before the high-resolution phase are done"


def leave(built: Built, stream: StreamEnd, stop: StopRequest, stopped_by: Decision | None) -> int:
    """End the attempt on every trainer; returns the exit code. See the module's docstring.

    `GOES_ON` instead of 0 where only a part of the run is done, and its checkpoint is written.
    """
    cause = None if stopped_by is None else stopped_by.cause
    goes_on = cause is None and built.loop.step < built.parts.config.trainer.steps
    ended_by = cause.value if cause is not None else PART_DONE if goes_on else ALL_DONE
    if stopped_by is not None and cause is not StopCause.REQUESTED:
        ended_by = _say_why(built, stream, stopped_by)
    used_up = cause is StopCause.EXHAUSTED and stream.watch.ledger_used_up()
    final = (cause is None and not goes_on) or used_up
    if goes_on:
        # Before END: a generator that has heard it asks.
        built.parts.role.rendezvous.publish_going_on()
    stream.receiver.announce_end(ended_by, final=final)
    _stop_figures(built)
    saved = _take_leave(built, stream, stop, cause)
    recorded = _close_ledger(built)
    merged = built.parts.reporter.collect()
    balanced = _summarise(built, merged, ended_by, measure=cause in (None, StopCause.EXHAUSTED))
    if final and built.parts.role.is_first:
        _tell_latecomers(built, ended_by)
    if not (saved and recorded and balanced and _is_good_end(built, stream, stopped_by)):
        return 1
    return GOES_ON if goes_on and not stop.requested else 0


def _is_good_end(built: Built, stream: StreamEnd, stopped_by: Decision | None) -> bool:
    """Whether nothing failed. Asked after the goodbyes, which say whether a ledger is used up."""
    if stopped_by is not None and stopped_by.cause is StopCause.EXHAUSTED:
        # The others' generators may have had more; whether something failed, these trainers know.
        mine = built.parts.trainers.index in stopped_by.by
        return not mine or stream.watch.ledger_used_up()
    return stopped_by is None or stopped_by.cause is StopCause.REQUESTED


def _tell_latecomers(built: Built, ended_by: str) -> None:
    """Say in the run folder that the run is over: a generator that is away now was not told."""
    path = built.parts.role.folder.addresses
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        write_durably(path, json.dumps(known | {"finished": ended_by}, indent=1) + "\n")
    except (OSError, ValueError) as error:
        print(f"online_synclr: {path} could not be written: {error}", file=sys.stderr, flush=True)


def leave_diverged(built: Built, stream: StreamEnd, error: DivergedLossError) -> int:
    """End the attempt on every trainer without a checkpoint; returns the exit code.

    All trainers come here after the same step. The checkpoints before the trouble stay the newest,
    so that the run can be continued from them with other settings.
    """
    ended_by = f"the loss diverged; {error}"
    if built.parts.first is not None:
        print(
            f"online_synclr: stopped after {built.loop.step} steps: {error}",
            file=sys.stderr,
            flush=True,
        )
    stream.receiver.announce_end(ended_by, final=False)
    _stop_figures(built)
    _drain(built, stream, built.parts.config.generators.goodbye_s)
    _close_ledger(built)
    _summarise(built, built.parts.reporter.collect(), ended_by, measure=False)
    return 1


def _close_ledger(built: Built) -> bool:
    """Whether this trainer's ledger is on disk to its end."""
    error = built.parts.ledger.close(built.loop.step)
    if error is not None:
        print(
            f"online_synclr: trainer {built.parts.trainers.index}: the end of the ledger is not on "
            f"disk ({error}): make room in run.dir",
            file=sys.stderr,
            flush=True,
        )
    return error is None


def _stop_figures(built: Built) -> None:
    merged = built.parts.reporter.collect()
    if built.parts.first is not None:
        built.parts.first.figures.stop(merged, built.loop.step)


def _say_why(built: Built, stream: StreamEnd, decision: Decision) -> str:
    """Name the reason once, on the first trainer that gave it."""
    assert decision.cause is not None
    starved = decision.cause is StopCause.STARVED
    reason = stream.watch.shortage() if starved else stream.watch.reason()
    reason = stream.watch.failure or reason
    index = built.parts.trainers.index
    if decision.by and index == decision.by[0]:
        print(
            f"online_synclr: stopped after {built.loop.step} steps, {decision.cause.value}; "
            f"{reason}",
            file=sys.stderr,
            flush=True,
        )
    return f"{decision.cause.value}; {reason}"


def _take_leave(
    built: Built, stream: StreamEnd, stop: StopRequest, cause: StopCause | None
) -> bool:
    """Drain and save, in the order that suits the cause; whether the checkpoint is written."""
    if cause is StopCause.REQUESTED:
        saved = built.parts.writer.save(built.loop.step)
        _drain(built, stream, stop.remaining_s / 2)
        return saved
    if cause is not StopCause.FAILED:
        _drain(built, stream, built.parts.config.generators.goodbye_s)
    return built.parts.writer.save(built.loop.step)


def _drain(built: Built, stream: StreamEnd, timeout_s: float) -> None:
    first = built.parts.first
    if first is not None:
        first.show_phase(built.loop.step, "waiting for the generators' goodbye")
    timeout_s = min(timeout_s, built.parts.config.generators.goodbye_s)
    deadline = time.monotonic() + timeout_s
    stream.watch.await_all_heard(timeout_s)
    try:
        stream.receiver.drain(max(0.0, deadline - time.monotonic()))
    except StreamError as error:
        # Groups on their way are gone; the others wait for this trainer to save the checkpoint.
        print(f"online_synclr: {error}", file=sys.stderr, flush=True)


def _summarise(built: Built, merged: Merged, ended_by: str, *, measure: bool) -> bool:
    """Write and show what the run did; whether its counts add up.

    All trainers `measure` or none does.
    """
    parts, loop = built.parts, built.loop
    totals = parts.writer.totals(merged)
    knn_after = parts.probe.measure(loop.step) if measure else None
    if parts.first is None or built.monitor is None:
        return True
    ending = Ending(
        step=loop.step,
        ended_by=ended_by,
        time_to_first_step_s=loop.time_to_first_step_s,
        final_loss=_final_loss(parts.first.final_loss, merged),
        knn_after=knn_after,
    )
    summary = summarise(
        parts.config,
        ending=ending,
        merged=merged,
        before=built.history.restored.totals,
        totals=totals,
        figures=parts.first.figures,
        attempts=built.history.attempts,
    )
    built.monitor.log_summary(summary)
    return not summary.check_identities()


def _final_loss(logged: float | None, merged: Merged) -> float | None:
    """The loss of the steps since the last logged one, else the last logged; None without any."""
    last = merged.losses["total"]
    if math.isfinite(last):
        return last
    return logged if logged is not None and math.isfinite(logged) else None
