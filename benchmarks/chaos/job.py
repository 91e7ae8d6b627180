"""The job under attack: torchrun with trainers and generators, and generators that join it."""

import json
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import tiny
from benchmarks.marked import Mark
from online_synclr.paths import PROJECT_DIR

TRAINERS, RANKS, JOINERS = 2, 3, 2
BIND_HOST, RELAY_HOST = "127.0.0.1", "127.0.0.2"
CREDITS: Final = 4
MAX_REUSE: Final = 4
JOINER_WAIT_S: Final = 20.0
SETTINGS: Final = (
    *tiny.ENGINES,
    "images.rate_images_per_s=40",
    "stream.heartbeat_s=0.5",
    "stream.silence_s=6",
    f"stream.credits_per_generator={CREDITS}",
    "generators.stall_s=10",
    "generators.restarts_per_hour=1000000",
    "generators.backoff_s=0.1",
    "generators.backoff_max_s=0.5",
    "generators.goodbye_s=5",
)
TRAINING: Final = (
    *tiny.TRAINING,
    f"topology.trainers={TRAINERS}",
    f"topology.generators={RANKS}",
    "trainer.checkpoint={every_steps: 200, keep: 2}",
    f"pool={{samples_per_insert: 2, max_reuse: {MAX_REUSE}, max_bytes: 4194304}}",
    "monitor.log_every_steps=10",
)


def free_ports(number: int) -> int:
    """The first of so many neighbouring ports that are free on both addresses."""
    while True:
        first = random.SystemRandom().randrange(20_000, 60_000)
        with suppress(OSError):
            for port in range(first, first + number):
                for host in (BIND_HOST, RELAY_HOST):
                    with socket.socket() as probe:
                        probe.bind((host, port))
            return first


class Job:
    """The run and the generators beside it. Started at once; a context manager that ends it all."""

    def __init__(self, folder: Path, port: int, steps: int) -> None:
        self.mark = Mark()
        self.run_dir = folder / "run"
        self._folder = folder
        self._port = port
        self._keys = folder / "keys"
        self._command("keys", str(self._keys), "lab", wait=True)
        self.torchrun = self._start_job(steps)
        self._joiners: dict[str, subprocess.Popen[bytes]] = {}
        self.joined = 0

    def tend(self) -> None:
        """Start the generators beside the run that are not there yet, or have failed."""
        for number in range(JOINERS):
            name = f"lab.{number}"
            before = self._joiners.get(name)
            if before is None or before.poll():
                self.joined += 1
                self._joiners[name] = self._join(name)

    def engines(self) -> list[psutil.Process]:
        """The engine children, of all generators."""
        return self.mark.processes("generators.engine")

    def joiners(self) -> list[psutil.Process]:
        """The generators that joined by themselves."""
        return self.mark.processes("online_synclr", "generate")

    def wait_for_joiners(self, timeout_s: float) -> list[str]:
        """Their last words, once the run is over."""
        deadline_s = time.monotonic() + timeout_s
        words = []
        for name, joiner in self._joiners.items():
            try:
                joiner.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                words.append("still there")
                continue
            last = (self._folder / f"{name}.log").read_text().splitlines()[-1]
            words.append(last.rpartition(f"{name}: ")[2])
        return words

    @property
    def has_summary(self) -> bool:
        """Whether the run came to its end."""
        return (self.run_dir / "summary.json").exists()

    def summary(self) -> dict[str, Any]:
        """summary.json; empty where there is none."""
        path = self.run_dir / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def steps_logged(self) -> list[tuple[int, float]]:
        """Step and wall clock of each line of metrics.jsonl."""
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        return [(record["step"], record["time_s"]) for record in records]

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        # What a check found left over has been said by now.
        for process in self.mark.processes():
            with suppress(psutil.Error):
                process.kill()
        for child in (self.torchrun, *self._joiners.values()):
            child.wait()

    def _start_job(self, steps: int) -> "subprocess.Popen[bytes]":
        launcher = ("torch.distributed.run", "--standalone", f"--nproc_per_node={TRAINERS + RANKS}")
        listening = (
            "stream.transport=tcp",
            f"stream.port={self._port}",
            f"stream.advertise={RELAY_HOST}",
            f"stream.keys={self._keys}",
        )
        return self._launch(
            "job",
            *launcher, "-m", "online_synclr", "--config", "configs/demo.yaml",
            f"run.dir={self.run_dir}", f"trainer.steps={steps}", *SETTINGS, *TRAINING, *listening,
        )  # fmt: skip

    def _join(self, name: str) -> "subprocess.Popen[bytes]":
        key = self._keys / "generators" / "lab.key"
        connect = f"tcp://{RELAY_HOST}:{self._port}"
        return self._launch(
            name,
            *("online_synclr", "generate", "--connect", connect, "--key", str(key)),
            *(
                "--name",
                name,
                "--wait-s",
                str(JOINER_WAIT_S),
                f"run.dir={self._folder / name}",
                # Their groups go through the bad network; those of the ranks lie in rings.
                "stream.shared_memory=never",
                *SETTINGS,
            ),
        )

    def _command(self, *arguments: str, wait: bool) -> None:
        process = self._launch(arguments[0], "online_synclr", *arguments)
        if wait and process.wait() != 0:
            raise RuntimeError(f"{arguments[0]} failed; see {self._folder}")

    def _launch(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=PROJECT_DIR,
                env=self.mark.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def ranks_of(job: Job) -> list[psutil.Process]:
    """The rank processes: children of torchrun."""
    parent = psutil.Process(job.torchrun.pid)
    ranks = [child for child in parent.children() if "online_synclr" in child.cmdline()]
    return ranks if len(ranks) == TRAINERS + RANKS else []
