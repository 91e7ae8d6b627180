"""The signals that ask a rank to leave in order.

SIGTERM, SIGINT, SIGHUP and SIGQUIT are what torchrun passes on by itself; SIGUSR1 and SIGUSR2 are
what schedulers send ahead of a preemption (Slurm's `--signal`). torchrun itself dies of the last
two unless it is started with `--signals-to-handle` that names them.
"""

import signal
from typing import Final

STOP_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def stop_signals() -> list[signal.Signals]:
    """Those to handle: under `nohup`, which ignores SIGHUP, that one stays ignored."""
    hang_up_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (number is signal.SIGHUP and hang_up_ignored)]
