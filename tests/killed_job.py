"""A real torchrun job with stand-in engines whose ranks can be killed, as seen from outside."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from online_synclr.attempts import Attempt, read_attempts
from online_synclr.monitor.jsonl import last_line, last_step
from online_synclr.paths import PROJECT_DIR
from online_synclr.run_folder import RunFolder
from tests.torchrun import SYNTHETIC, environment, torchrun_command
from trainer import checkpoint_files

POLL_S = 0.002
"""Between two looks for a checkpoint being written, which takes a few tenths of a second."""

PATIENCE_S = 180.0


class Job:
    """Started with the block, ended by force if need be.

    Args:
        run_dir: run folder.
        num_trainers, num_generators: ranks by role; trainers have the lowest local ranks.
        overrides: settings beyond those of the stand-in engines.
        tmp_dir: temporary folder of all its processes.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        num_trainers: int,
        num_generators: int,
        max_restarts: int,
        overrides: Sequence[str],
        tmp_dir: Path,
    ) -> None:
        self.folder = RunFolder(run_dir)
        self.num_ranks = num_trainers + num_generators
        split = (f"topology.trainers={num_trainers}", f"topology.generators={num_generators}")
        launcher = (
            "--standalone",
            f"--nproc_per_node={self.num_ranks}",
            f"--max-restarts={max_restarts}",
        )
        self._command = torchrun_command(run_dir, (*SYNTHETIC, *split, *overrides), launcher)
        self._env = {**environment(), "TMPDIR": str(tmp_dir)}
        self.output: list[str] = []

    def __enter__(self) -> "Job":
        self._torchrun = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=PROJECT_DIR,
            env=self._env,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._torchrun.poll() is None:
            # Its ranks leave with it.
            self._torchrun.send_signal(signal.SIGKILL)
        self._torchrun.wait()

    def wait(self) -> int:
        """Wait for the job's end; its exit code."""
        code = self._torchrun.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def attempts(self) -> list[Attempt]:
        """The attempts that have begun so far."""
        return list(read_attempts(self.folder.attempts))

    def last_step(self) -> int:
        """The last step that was logged."""
        return last_step(self.folder.metrics)

    def has_trained_since(self, time_s: float) -> bool:
        """Whether a step was logged after a moment of the wall clock."""
        line = last_line(self.folder.metrics)
        return line is not None and line["time_s"] > time_s

    def newest_checkpoint(self) -> int:
        """The step of the newest complete checkpoint; 0 without one."""
        newest = checkpoint_files.latest(self.folder.root)
        return 0 if newest is None else checkpoint_files.step_of(newest)

    def being_written(self) -> bool:
        """Whether a checkpoint is being written, from its folder's temporary name."""
        return any(self.folder.checkpoints.glob(".step_*.tmp/checkpoint.pt"))

    def await_that(self, holds: Callable[[], object], what: str, poll_s: float = 0.05) -> None:
        """Wait until `holds`.

        Raises:
            TimeoutError: it did not, in `PATIENCE_S`, or the job ended before.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if self._torchrun.poll() is not None or time.monotonic() > deadline_s:
                raise TimeoutError(f"{what}; the job said:\n{''.join(self.output[-60:])}")
            time.sleep(poll_s)

    def signal(self, local_rank: int, number: signal.Signals) -> psutil.Process:
        """Send a signal to one rank; its process."""
        rank = self._ranks()[local_rank]
        rank.send_signal(number)
        return rank

    def kill(self, local_rank: int) -> None:
        """SIGKILL to one rank; returns once it is dead."""
        rank = self._ranks()[local_rank]
        rank.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            # Its parent reaps it.
            while rank.status() != psutil.STATUS_ZOMBIE:
                time.sleep(POLL_S)

    def left_over(self) -> list[str]:
        """Command lines of processes that belong to this run."""
        marker, found = str(self.folder.root), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if marker in line and process.pid != os.getpid():
                    found.append(line)
        return found

    def _ranks(self) -> dict[int, psutil.Process]:
        ranks = {}
        for child in psutil.Process(self._torchrun.pid).children():
            with contextlib.suppress(psutil.Error, KeyError):
                ranks[int(child.environ()["LOCAL_RANK"])] = child
        return ranks

    def _read(self) -> None:
        assert self._torchrun.stdout is not None
        self.output.extend(self._torchrun.stdout)
