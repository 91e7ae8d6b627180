"""An engine child as its supervisor sees it.

The child is `python -m generators.engine`, a fresh interpreter: its whole environment is in place
before the first import (thread counts, the GPU, no trace of torchrun), and it does not import the
launcher's main module again as a multiprocessing child would.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from generators.lifeline import STOP_REQUEST
from generators.reports import Report, ReportReader

_TAIL_BYTES = 4096


class EngineProcess:
    """A started child with its lifeline, its reports and its log. Start it from the main thread."""

    def __init__(
        self, spec_path: Path, *, stream: int, env: Mapping[str, str], log_path: Path
    ) -> None:
        self.stream = stream
        self._killed = False
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path = log_path
        lifeline, self._lifeline = os.pipe()
        report, writer = os.pipe()
        self._reports = ReportReader(report)
        command = engine_command(spec_path, lifeline_fd=lifeline, report_fd=writer)
        try:
            with log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lifeline, writer),
                    # A session of its own: Ctrl-C reaches the supervisor, which ends it in order.
                    start_new_session=True,
                )
        finally:
            os.close(lifeline)
            os.close(writer)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when there is a report, or when the child is gone."""
        return self._reports.fileno()

    @property
    def silent(self) -> bool:
        """Whether nothing can come any more: `fileno` is no longer worth waiting for."""
        return self._reports.closed

    def reports(self) -> list[Report]:
        """What the child has said since the last call; never blocks."""
        return self._reports.read()

    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.poll()

    def request_stop(self) -> None:
        """Ask for an orderly end."""
        with contextlib.suppress(OSError):
            os.write(self._lifeline, STOP_REQUEST)

    def kill(self) -> None:
        """SIGKILL to the child and its process group; waits until the kernel has taken it."""
        # Once only: afterwards the number may belong to another process group.
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Kill what still runs and close the pipes."""
        self.kill()
        os.close(self._lifeline)
        self._reports.close()

    def last_words(self) -> str:
        """How it ended, with the last line of its log: for a child that reported no error."""
        code = self.exit_code()
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = _signal_words(-code)
        line = _last_line(self._log_path)
        return f"the engine ended with {how}" + (f"; its log ends: {line}" if line else "")


def engine_command(spec_path: Path, *, lifeline_fd: int, report_fd: int) -> Sequence[str]:
    """Command line of an engine child."""
    arguments = [str(spec_path), str(lifeline_fd), str(report_fd)]
    return [sys.executable, "-m", "generators.engine", *arguments]


def _signal_words(number: int) -> str:
    if number == signal.SIGKILL:
        return "signal SIGKILL (somebody's, or the kernel's where the machine's memory ran out)"
    known = number in {one.value for one in signal.Signals}
    return f"signal {signal.Signals(number).name if known else number}"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    # Lines of its own account say how it lived, not how it died.
    others = [line.strip() for line in lines if not line.startswith("engine: ")]
    return others[-1][:300] if others else ""
