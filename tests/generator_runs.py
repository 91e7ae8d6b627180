"""Real generator ranks against a real receiver, with the trainer's memory faked."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from online_synclr.config.schema import Config
from online_synclr.paths import PROJECT_DIR
from online_synclr.stream.endpoints import ipc_endpoint
from online_synclr.stream.group import Group
from online_synclr.stream.peers import PeerView
from online_synclr.stream.receiver import Receiver

RANK = """
import json, sys
from pathlib import Path
from generators import process
from generators.main import GeneratorRole, run_generator
from online_synclr.config.schema import Config

given = json.loads(sys.argv[1])
if given["engine"]:
    process.engine_command = lambda spec_path, *, lifeline_fd, report_fd: [
        sys.executable, given["engine"], str(spec_path), str(lifeline_fd), str(report_fd)
    ]
role = GeneratorRole(
    run_id="run",
    run_dir=Path(given["run_dir"]),
    incarnation=1,
    generator_index=0,
    num_generators=1,
    node_index=0,
    local_generator_index=0,
    trainer_addresses=(given["address"],),
    gpu=None,
    cpu_threads=1,
)
sys.exit(run_generator(Config.model_validate(given["config"]), role))
"""

ENGINE = """
import os, sys
from pathlib import Path
from generators.engine import main
from generators.images.synthetic_renderer import SyntheticRenderer
from generators.spec import EngineSpec
from online_synclr.stream.messages import engine_start

start = engine_start(EngineSpec.read(Path(sys.argv[1])).stream)
render = SyntheticRenderer.render

def faulty(self, recipes):
    {statement}
    return render(self, recipes)

SyntheticRenderer.render = faulty
code = main(sys.argv[1:])
sys.stdout.flush()
os._exit(code)
"""

PYTHON = (sys.executable,)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")


class Pool:
    """Takes every group; the test waits for as many as it needs."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._changed = threading.Condition()

    def credits_to_issue(self, in_flight: int) -> int:
        return max(0, 4 - in_flight)

    def place(self, shape: Sequence[int]) -> np.ndarray:
        return np.empty(tuple(shape), np.uint8)

    def insert(self, group: Group) -> None:
        with self._changed:
            self.groups.append(group)
            self._changed.notify_all()

    def reclaim(self, num_credits: int) -> None:
        pass

    def on_room(self, wake: Callable[[], None]) -> None:
        pass

    def wait_for(self, count: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.groups) >= count, timeout_s)


@dataclass
class GeneratorRun:
    """A generator rank that is under way."""

    rank: subprocess.Popen[bytes]
    pool: Pool
    receiver: Receiver
    run_dir: Path

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.run_dir.glob("logs/*.log")))

    def wait_for_peer(self, holds: Callable[[PeerView], bool], timeout_s: float) -> PeerView:
        """The generator as the trainer sees it, once `holds`."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for view in self.receiver.peers():
                if holds(view):
                    return view
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s:.0f} s: {self.receiver.peers()}")

    def end(self, timeout_s: float = 60.0) -> int:
        """Say END, wait for every BYE and for the rank; its exit code."""
        self.receiver.announce_end()
        assert self.receiver.drain(timeout_s), self.logs()
        return self.rank.wait(timeout_s)


@contextmanager
def generator_run(
    run_dir: Path,
    config: dict[str, Any],
    launcher: Sequence[str] = PYTHON,
    *,
    renderer: str = "",
) -> Iterator[GeneratorRun]:
    """Start one; it is ended, by force if need be, with the block.

    `renderer`: a statement of the body of `render(self, recipes)`, with `start` the number of the
    engine's start, that runs in the engine before the synthetic renderer's own.
    """
    images = Config.model_validate(config).images
    shape = (images.per_caption, 3, images.send_px, images.send_px)
    pool = Pool()
    script = run_dir / "rank.py"
    script.write_text(RANK)
    engine = run_dir / "engine.py"
    if renderer:
        engine.write_text(ENGINE.format(statement=renderer))
    with Receiver(ipc_endpoint(), "run", pool, image_shape=shape) as receiver:
        given = {"run_dir": str(run_dir), "address": receiver.address, "config": config}
        given["engine"] = str(engine) if renderer else ""
        env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
        rank = subprocess.Popen([*launcher, str(script), json.dumps(given)], env=env)
        try:
            yield GeneratorRun(rank, pool, receiver, run_dir)
        finally:
            rank.terminate()
            try:
                rank.wait(40)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()
