"""Entry of the trainer role: build, restore, train, take leave.

    join the trainers -> listen -> build the model -> restore -> kNN -> loop -> END, drain,
    checkpoint, kNN, summary

A run with a high-resolution phase is two attempts: the ranks start themselves anew in between.

The receiver listens before the model is built, so that groups arrive meanwhile. When another
trainer is lost, this one leaves at once: without it there is neither a step nor a checkpoint.
"""

import os
import sys

from online_synclr.config import Config
from online_synclr.stream.errors import StreamError
from trainer.assembly import Built, StreamEnd, build_loop, start_stream
from trainer.distributed import join_trainers
from trainer.leaving import leave, leave_diverged
from trainer.lost_trainer import LostTrainerError, naming_lost_trainers
from trainer.role import TrainerRole
from trainer.start import find_start
from trainer.step_meter import DivergedLossError
from trainer.stop import StopRequest, stop_on_signals

__all__ = ["TrainerRole", "run_trainer"]

SPOKESMAN_S = 2.0
"""A trainer that lost another one stays so long: torchrun then names the one that died first."""


def run_trainer(config: Config, role: TrainerRole) -> int:
    """Play a trainer's part until the run is over; returns the process's exit code.

    `GOES_ON`: the steps before the high-resolution phase are done, and the rank is to start anew.
    0: all steps are done, a stop was asked for (the run can be continued), or the ledger that the
    run trains from is used up. 1: no generator is left, the loss diverged, another trainer is gone
    or the stream failed, and one line on standard error says which; or the summary's counts do not
    add up, and its text says which.

    Raises:
        ConfigError: a setting turned out wrong when models, data or checkpoints were opened.
    """
    with stop_on_signals(config.run.grace_s) as stop:
        try:
            with naming_lost_trainers():
                return _run(config, role, stop)
        except StreamError as error:
            _say(role, str(error))
            return 1
        except LostTrainerError as error:
            _say(
                role,
                f"another trainer is gone ({error}); leaving without a checkpoint, the newest "
                "complete one counts",
            )
            stop.wait(SPOKESMAN_S)
            # torch may wait for the lost trainer once more when its groups are torn down.
            os._exit(1)


def _run(config: Config, role: TrainerRole, stop: StopRequest) -> int:
    trainers = join_trainers(role)
    start = find_start(config, role)
    config = start.config
    stream = start_stream(config, role)
    stop.before_ending(stream.receiver.abandon)
    try:
        built = build_loop(start, role, trainers, stream, stop)
        try:
            measure_before(built)
            stop.training_begins()
            code = _train(built, stream, stop)
        finally:
            if built.monitor is not None:
                built.monitor.close()
    finally:
        stream.receiver.close()
    # Not on the way of an error: others may be inside a collective, and torchrun ends them.
    trainers.close()
    return code


def _train(built: Built, stream: StreamEnd, stop: StopRequest) -> int:
    try:
        return leave(built, stream, stop, built.loop.run())
    except DivergedLossError as error:
        return leave_diverged(built, stream, error)


def _say(role: TrainerRole, text: str) -> None:
    print(f"online_synclr: trainer {role.trainer_index}: {text}", file=sys.stderr, flush=True)


def measure_before(built: Built) -> None:
    """A new run's kNN accuracy before its first step, while groups arrive; all trainers call it."""
    first, writer = built.parts.first, built.parts.writer
    steps, folder = built.parts.config.trainer.steps, built.parts.role.folder.root
    done = built.history.restored.step
    if first is not None and done >= steps:
        first.say(
            f"{folder} holds a finished run ({done} of {steps} steps): nothing to train; "
            "raise trainer.steps or name another run.dir"
        )
    if done == 0:
        writer.knn_before = built.parts.probe.measure(0)
