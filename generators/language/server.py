"""The caption server that all generators of a node share (`captions.server: per_node`).

The node's first generator starts and watches it (`NodeServer`) and writes its address to a file in
the run folder; the others read that file (`SharedServer`). Both are stepped by their supervisor's
loop and never block longer than one health check. An engine starts when `url` is set; while the
server is being restarted the engines' own retries wait for it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from generators.errors import GeneratorError
from generators.restarts import RestartBudget

_PROBE_EVERY_S = 0.5
_MISSED_PROBES = 20
_PROBE_TIMEOUT_S = 1.0


class CaptionServer(Protocol):
    """What a supervisor needs of a server."""

    url: str
    """Address for the openai back end; empty while the server does not answer."""
    error: str
    """Why there will be no server any more; empty while there is hope."""

    def step(self, now_s: float) -> None:
        """Look at it; restart it if it is time to."""

    def close(self) -> None:
        """End it, if it is ours."""


class ServerProcess(Protocol):
    """One start of the server."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def close(self) -> None:
        """End it with all its processes."""


@dataclass(frozen=True)
class _Address:
    """Contents of the address file."""

    url: str
    error: str


class NodeServer:
    """Starts, watches and restarts the server; for the node's first generator.

    Args:
        start: Starts the server process on a port.
        port: Kept over restarts, since the engines know it.
        address_path: Where the others find it; its log lies beside, with the ending `.log`.
        probe: Whether the server at an address is healthy; must answer within about a second.
        startup_s: Longest time from a start to the first healthy answer.
    """

    def __init__(
        self,
        *,
        start: Callable[[int], ServerProcess],
        port: int,
        address_path: Path,
        budget: RestartBudget,
        startup_s: float,
        say: Callable[[str], None],
        probe: Callable[[str], bool] | None = None,
    ) -> None:
        self.url = ""
        self.error = ""
        self._start = start
        self._port = port
        self._address_path = address_path
        self._log = address_path.with_suffix(".log")
        self._budget = budget
        self._startup_s = startup_s
        self._say = say
        self._probe = probe or is_healthy
        self._process: ServerProcess | None = None
        self._start_at_s = 0.0
        self._started_s = 0.0
        self._next_probe_s = 0.0
        self._missed = 0

    def step(self, now_s: float) -> None:
        """See `CaptionServer.step`."""
        if self.error:
            return
        if self._process is None:
            if now_s >= self._start_at_s:
                self._begin(now_s)
            return
        code = self._process.exit_code()
        if code is not None:
            self._died(f"ended with exit code {code}", now_s)
        elif now_s >= self._next_probe_s:
            self._next_probe_s = now_s + _PROBE_EVERY_S
            self._look(now_s)

    def close(self) -> None:
        """End the server with all its processes."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _begin(self, now_s: float) -> None:
        try:
            self._process, self._started_s = self._start(self._port), now_s
        except (GeneratorError, OSError) as error:
            self.error = str(error)
            self._publish(url="")
        self._missed = 0

    def _look(self, now_s: float) -> None:
        root = f"http://127.0.0.1:{self._port}"
        if self._probe(root):
            self._missed = 0
            if not self.url:
                self._say(f"caption server answers after {now_s - self._started_s:.0f} s")
                self._publish(url=f"{root}/v1")
            return
        self._missed += 1
        if self.url and self._missed >= _MISSED_PROBES:
            self._died(f"did not answer {self._missed} health checks in a row", now_s)
        elif not self.url and now_s - self._started_s > self._startup_s:
            limit = f"{self._startup_s:.0f} s (generators.stall_s)"
            self._died(f"did not answer within {limit} of its start", now_s)

    def _died(self, how: str, now_s: float) -> None:
        self.close()
        pause_s = self._budget.pause_before_restart(now_s)
        if pause_s is None:
            self.error = (
                f"the node's caption server {how}, and its restarts are used up; see {self._log}"
            )
            self._publish(url="")
            return
        self._say(f"caption server {how} (see {self._log}); starting it again in {pause_s:.0f} s")
        self._start_at_s = now_s + pause_s
        self._publish(url="")

    def _publish(self, *, url: str) -> None:
        self.url = url
        temporary = self._address_path.with_name(f"{self._address_path.name}.{os.getpid()}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"url": url, "error": self.error}), encoding="utf-8")
        temporary.replace(self._address_path)


class SharedServer:
    """The server that the node's first generator runs, as seen by the others."""

    def __init__(self, *, address_path: Path) -> None:
        self.url = ""
        self.error = ""
        self._address_path = address_path

    def step(self, now_s: float) -> None:
        """Read the address file; waits for nothing."""
        try:
            content = json.loads(self._address_path.read_text(encoding="utf-8"))
            address = _Address(**content)
        except (OSError, ValueError, TypeError):
            return
        self.url, self.error = address.url, address.error

    def close(self) -> None:
        """It is not ours to end."""


def is_healthy(root: str) -> bool:
    """Whether the server's health check answers; waits a second at most."""
    import httpx

    try:
        return httpx.get(f"{root}/health", timeout=_PROBE_TIMEOUT_S, trust_env=False).is_success
    except httpx.HTTPError:
        return False
