"""Entry of the trainer role: build, restore, train, take leave.

    join the trainers -> listen -> build the model -> restore -> kNN -> loop -> END, drain,
    checkpoint, kNN, summary

The receiver listens before the model is built, so that groups arrive meanwhile.
"""

import sys

from online_synclr.config import Config
from online_synclr.stream.errors import StreamError
from trainer.assembly import Built, StreamEnd, build_loop, start_stream
from trainer.distributed import join_trainers
from trainer.leaving import leave, leave_diverged
from trainer.role import TrainerRole
from trainer.step_meter import DivergedLossError
from trainer.stop import StopRequest, stop_on_signals

__all__ = ["TrainerRole", "run_trainer"]


def run_trainer(config: Config, role: TrainerRole) -> int:
    """Play a trainer's part until the run is over; returns the process's exit code.

    0: all steps are done, a stop was asked for (the run can be continued), or the ledger that the
    run trains from is used up. 1: no generator is
    left, the loss diverged, or the stream failed, and one line on standard error says which; or the
    summary's counts do not add up, and its text says which.

    Raises:
        ConfigError: a setting turned out wrong when models, data or checkpoints were opened.
    """
    with stop_on_signals(config.run.grace_s) as stop:
        try:
            return _run(config, role, stop)
        except StreamError as error:
            print(f"online_synclr: trainer {role.trainer_index}: {error}", file=sys.stderr)
            return 1


def _run(config: Config, role: TrainerRole, stop: StopRequest) -> int:
    trainers = join_trainers(role)
    stream = start_stream(config, role)
    try:
        built = build_loop(config, role, trainers, stream, stop)
        try:
            measure_before(built)
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


def measure_before(built: Built) -> None:
    """A new run's kNN accuracy before its first step, on trainer 0, while groups arrive."""
    first, writer = built.parts.first, built.parts.writer
    steps, folder = built.parts.config.trainer.steps, built.parts.role.folder.root
    if first is not None and built.restored.step >= steps:
        first.say(
            f"{folder} holds a finished run ({built.restored.step} of {steps} steps): nothing to "
            "train; raise trainer.steps or name another run.dir"
        )
    if first is not None and built.restored.step == 0:
        writer.knn_before = first.measure_knn(0)
