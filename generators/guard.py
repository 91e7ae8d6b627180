"""Runs a foreign program so that none of its processes outlives the one that started it.

    python -m generators.guard LIFELINE_FD PROGRAM ARGUMENT...

The guard stands between: it holds the reading end of the parent's lifeline, adopts whatever the
program leaves behind, and ends it all when the parent asks or is gone. It exits as the program did.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial

from generators.lifeline import kill_descendants, watch_parent
from online_synclr.process_control import adopt_orphans, signal_when_parent_ends

_POLITE_S = 5.0


def main(argv: Sequence[str]) -> int:
    """Run the program; waits for its end, the parent's word or the parent's end."""
    lifeline_fd, command = int(argv[0]), list(argv[1:])
    adopt_orphans()
    over = threading.Event()
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, lambda *_: over.set())
    # Started before any thread exists, so that no lock can be held across the fork.
    die_with_this = partial(signal_when_parent_ends, signal.SIGKILL)
    process = subprocess.Popen(command, preexec_fn=die_with_this)  # noqa: PLW1509
    watch_parent(lifeline_fd, on_stop=over.set, on_parent_gone=over.set)
    threading.Thread(target=_tell_end, args=(process, over), daemon=True).start()
    over.wait()
    return _end(process)


def _tell_end(process: subprocess.Popen[bytes], over: threading.Event) -> None:
    process.wait()
    over.set()


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLITE_S)
    kill_descendants()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(exit_code)
