"""The supervisor: decisions with fakes and a clock of their own, then real children that die."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from generators.control_group import ControlGroup
from generators.environment import engine_environment, scrubbed
from generators.process import EngineProcess
from generators.reports import Report, ReportReader, ReportWriter
from generators.restarts import RestartBudget, StallWatch, stream_number
from generators.supervisor import Outcome, Supervisor
from online_synclr.config.schema import GeneratorsConfig
from online_synclr.paths import PROJECT_DIR
from online_synclr.stream.messages import PeerState, engine_start
from online_synclr.stream.peers import LEDGER_USED_UP

SETTINGS = GeneratorsConfig(restarts_per_hour=2, backoff_s=2.0, stall_s=60.0)


class FakeEngine:
    """Does what the test sets."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.code: int | None = None
        self.said: list[Report] = []
        self.calls: list[str] = []

    def reports(self) -> list[Report]:
        said, self.said = self.said, []
        return said

    def exit_code(self) -> int | None:
        return self.code

    def request_stop(self) -> None:
        self.calls.append("request_stop")

    def kill(self) -> None:
        self.calls.append("kill")

    def close(self) -> None:
        self.calls.append("close")

    def last_words(self) -> str:
        return f"the engine ended with exit code {self.code}"


class FakeControl:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ended = False
        self.comes_back = False
        self.connected = True
        self.rejected: str | None = None
        self.states: list[PeerState] = []
        self.restarts: list[float] = []
        self.errors: list[tuple[str, int | None]] = []

    def status(self, state: PeerState, counters: dict[str, float]) -> None:
        self.states.append(state)
        self.restarts.append(counters["restarts"])

    def error(self, message: str, stream: int | None = None) -> None:
        self.errors.append((message, stream))


class FakeServer:
    """A caption server that is up when the test says so."""

    url = ""
    error = ""
    closed = False

    def step(self, now_s: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Bench:
    """A supervisor with fakes around it; `at` moves the clock and steps."""

    def __init__(
        self,
        settings: GeneratorsConfig = SETTINGS,
        server: FakeServer | None = None,
        *,
        idles: bool = True,
        patience_s: float = math.inf,
    ) -> None:
        self.now_s = 0.0
        self.engines: list[FakeEngine] = []
        self.control = FakeControl()
        self.urls: list[str] = []
        self.lines: list[str] = []
        self.fault: OSError | None = None
        self.supervisor = Supervisor(
            start_engine=self._start,
            control=self.control,
            settings=settings,
            heartbeat_s=1.0,
            grace_s=20.0,
            server=server,
            say=self.lines.append,
            clock=lambda: self.now_s,
            idles=idles,
            abandoned=lambda unheard_s: unheard_s > patience_s,
        )

    def _start(self, restarts: int, url: str) -> FakeEngine:
        if self.fault is not None:
            raise self.fault
        self.urls.append(url)
        self.engines.append(FakeEngine(stream_number(restarts=restarts, generator_index=3)))
        return self.engines[-1]

    def at(self, now_s: float) -> float | None:
        self.now_s = now_s
        return self.supervisor.step()


def test_a_dead_engine_is_replaced_after_a_pause_with_a_new_stream() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].code = -9
    bench.at(1.0)
    bench.at(2.9)
    assert len(bench.engines) == 1
    bench.at(3.0)
    assert [engine.stream for engine in bench.engines] == [3, 2**31 + 3]
    assert [engine_start(engine.stream) for engine in bench.engines] == [0, 1]
    assert bench.control.errors == [("the engine ended with exit code -9", 3)]
    assert bench.control.restarts[-1] == 1.0
    assert bench.engines[0].calls == ["close"]


def test_a_failure_that_comes_back_is_said_again_only_after_work() -> None:
    bench = Bench(GeneratorsConfig(restarts_per_hour=9, backoff_s=2.0, stall_s=60.0))
    said = []
    for died_at_s, report in (
        (100.0, Report()),
        (200.0, Report()),
        (300.0, Report(state="running", counters={"images_rendered": 4.0})),
    ):
        bench.at(died_at_s - 50.0)
        bench.engines[-1].said = [report, Report(state="failed", error="no server")]
        bench.engines[-1].code = 1
        bench.at(died_at_s)
        said.append(len(bench.lines))
    assert said == [1, 1, 2]
    assert bench.lines[0].startswith("no server; starting it again")


def test_pauses_double_and_the_budget_ends_in_error_and_idling() -> None:
    bench = Bench()
    bench.at(0.0)
    for died_at_s, again_at_s in ((1.0, 3.0), (4.0, 8.0)):
        bench.engines[-1].code = 1
        bench.engines[-1].said = [Report(state="failed", error=f"Broken: at {died_at_s}")]
        bench.at(died_at_s)
        bench.at(again_at_s)
    assert len(bench.engines) == 3
    bench.engines[-1].code = 1
    assert bench.at(9.0) is not None
    message, stream = bench.control.errors[-1]
    assert stream is None
    assert message.startswith("Broken: at 1.0")
    assert bench.at(1000.0) is not None
    assert len(bench.engines) == 3
    assert bench.control.states[-1] == "failed"
    bench.control.ended = True
    assert bench.at(1001.0) is None
    assert bench.supervisor.exit_code == 0


def test_a_final_error_is_not_tried_again() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].said = [Report(state="failed", error="SetupError: no vllm", final=True)]
    bench.engines[0].code = 1
    bench.at(1.0)
    bench.at(100.0)
    assert len(bench.engines) == 1
    assert bench.control.errors == [("SetupError: no vllm", 3), ("SetupError: no vllm", None)]


def test_end_lets_the_engine_finish_and_kills_it_if_it_does_not() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.control.ended = True
    assert bench.at(1.0) is not None
    assert bench.engines[0].calls == ["request_stop"]
    assert bench.at(20.9) is not None
    bench.at(21.0)
    assert bench.engines[0].calls == ["request_stop", "close"]
    assert bench.at(21.1) is None
    assert bench.control.states[-1] == "draining"


def test_an_engine_that_ends_well_before_the_end_is_replaced() -> None:
    """As after a SIGTERM that was meant for it alone: the run still wants its groups."""
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].code = 0
    assert bench.at(1.0) is not None
    bench.at(3.0)
    assert len(bench.engines) == 2
    assert bench.control.errors == [], "it has said BYE itself"
    assert "ended with exit code 0; starting it again" in bench.lines[0]


def test_an_engine_that_heard_of_the_end_first_is_not_replaced() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].said = [Report(state="draining", end_seen=True)]
    bench.engines[0].code = 0
    assert bench.at(1.0) is not None
    assert bench.at(19.0) is not None
    assert (len(bench.engines), bench.supervisor.restarts, bench.lines) == (1, 0, [])
    bench.control.ended = True
    assert bench.at(20.0) is None
    assert bench.supervisor.exit_code == 0


def test_an_engine_that_alone_heard_of_an_end_is_replaced_in_time() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].said = [Report(state="draining", end_seen=True)]
    bench.engines[0].code = 0
    bench.at(1.0)
    bench.at(21.0)
    bench.at(23.0)
    assert len(bench.engines) == 2
    assert "told END, its generator was not; starting it again" in bench.lines[0]


def test_a_rank_that_has_used_its_ledger_up_idles_until_the_end() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].said = [Report(state="draining", counters={LEDGER_USED_UP: 1.0})]
    bench.engines[0].code = 0
    assert bench.at(1.0) is not None
    assert bench.at(1000.0) is not None
    assert len(bench.engines) == 1
    assert bench.control.states[-1] == "idle"
    bench.control.ended = True
    assert bench.at(1001.0) is None
    assert bench.supervisor.exit_code == 0


def test_a_generator_refused_while_its_engine_runs_gives_up_at_once() -> None:
    """Its name was taken by another machine: joining again would take it back, and so for ever."""
    bench = Bench(idles=False, patience_s=40.0)
    bench.at(0.0)
    bench.control.connected = False
    bench.control.rejected = "a newer start of generator 'lab' has joined"
    assert bench.at(1.0) is None
    assert bench.engines[0].calls == ["close"]
    assert bench.supervisor.outcome is Outcome.FAILED
    assert bench.lines[-1].startswith("refused by the trainer: a newer start of generator 'lab'")


@pytest.mark.parametrize("end_first", [True, False])
def test_an_engine_that_ends_well_at_the_end_ends_the_rank(end_first: bool) -> None:
    """It may hear of END a moment before its supervisor does."""
    bench = Bench()
    bench.at(0.0)
    bench.control.ended = end_first
    bench.engines[0].code = 0
    bench.at(1.0)
    bench.control.ended = True
    bench.at(1.5)
    assert bench.at(1.6) is None
    assert len(bench.engines) == 1
    assert bench.control.errors == []
    assert bench.supervisor.exit_code == 0


def test_a_crash_loop_is_blamed_on_its_own_first_failure() -> None:
    """Not on one of days ago that a restart has mended."""
    bench = Bench()
    bench.at(0.0)
    for died_at_s, error in ((10.0, "OLD"), (90_000.0, "first"), (90_010.0, "b"), (90_020.0, "c")):
        bench.engines[-1].said = [Report(state="failed", error=error)]
        bench.engines[-1].code = 1
        bench.at(died_at_s)
        bench.at(died_at_s + 8.0)
    assert bench.control.errors[-1] == ("first; at last: c", None)


def test_an_engine_that_cannot_be_started_is_tried_again_within_the_budget() -> None:
    """The disk is full, say: a rank that exits would end the whole attempt."""
    bench = Bench()
    bench.fault = OSError(28, "No space left on device")
    bench.at(0.0)
    assert bench.engines == []
    bench.fault = None
    bench.at(1.9)
    assert bench.engines == []
    bench.at(2.0)
    assert [engine.stream for engine in bench.engines] == [2**31 + 3]
    assert "could not be started: [Errno 28] No space left on device" in bench.lines[0]


def test_an_engine_that_can_never_be_started_gives_up() -> None:
    bench = Bench()
    bench.fault = OSError(28, "No space left on device")
    for second in range(20):
        bench.at(float(second))
    ((message, stream),) = bench.control.errors
    assert stream is None
    assert "No space left on device" in message
    assert bench.control.states[-1] == "failed"


def test_a_signal_ends_the_rank_with_its_number() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.supervisor.stop(signal.SIGTERM)
    bench.at(1.0)
    bench.engines[0].code = 0
    bench.at(2.0)
    assert bench.at(3.0) is None
    assert bench.supervisor.exit_code == 128 + signal.SIGTERM


def test_an_engine_without_progress_is_replaced() -> None:
    bench = Bench()
    bench.at(0.0)
    bench.engines[0].said = [Report(state="running", counters={"images_rendered": 4.0})]
    bench.at(59.0)
    bench.at(118.0)
    assert bench.engines[0].calls == []
    bench.at(120.0)
    assert bench.engines[0].calls == ["kill", "close"]
    assert "generators.stall_s" in bench.control.errors[0][0]


def test_waiting_for_trainers_is_no_stall() -> None:
    watch = StallWatch(stall_s=10.0, now_s=0.0)
    for now_s in range(0, 100, 5):
        assert not watch.stalled({"images_rendered": 4.0, "wait_s/credits": now_s}, now_s)
    assert watch.stalled({"images_rendered": 4.0, "wait_s/credits": 95.0}, 106.0)


def test_a_rejected_generator_gives_up() -> None:
    bench = Bench()
    bench.control.rejected = "another run"
    bench.at(0.0)
    bench.at(1.0)
    assert bench.engines == []
    assert bench.control.errors == [("refused by the trainer: another run", None)]


@pytest.mark.parametrize(
    ("ended", "comes_back", "outcome"),
    [(True, False, Outcome.FINISHED), (True, True, Outcome.AGAIN), (False, False, Outcome.LEFT)],
)
def test_how_it_ended_is_told(ended: bool, comes_back: bool, outcome: Outcome) -> None:
    bench = Bench(idles=False)
    bench.at(0.0)
    bench.control.ended, bench.control.comes_back = ended, comes_back
    if not ended:
        bench.supervisor.stop(signal.SIGTERM)
    bench.at(1.0)
    bench.engines[0].code = 0
    bench.at(2.0)
    assert bench.at(3.0) is None
    assert bench.supervisor.outcome is outcome


def test_without_any_trainer_for_long_the_job_is_looked_for_anew() -> None:
    bench = Bench(idles=False, patience_s=40.0)
    bench.at(0.0)
    bench.control.connected = False
    bench.at(15.0)
    bench.control.connected = True
    bench.at(16.0)
    bench.control.connected = False
    bench.at(56.0)
    assert bench.engines[0].calls == []
    bench.at(56.1)
    assert bench.engines[0].calls == ["request_stop"]
    bench.engines[0].code = 0
    bench.at(57.0)
    assert bench.at(58.0) is None
    assert bench.supervisor.outcome is Outcome.AGAIN


def test_outside_torchrun_a_generator_that_failed_leaves() -> None:
    bench = Bench(GeneratorsConfig(restarts_per_hour=0), idles=False)
    bench.at(0.0)
    bench.engines[0].code = 1
    assert bench.at(1.0) is None
    assert bench.supervisor.outcome is Outcome.FAILED
    assert bench.control.errors[-1] == ("the engine ended with exit code 1", None)


@pytest.mark.parametrize("why", ["failed", "refused"])
def test_a_rank_that_is_out_ends_where_the_attempt_is_known_to_be_over(why: str) -> None:
    """Word of END may be lost; the run goes on in another attempt and needs every rank."""
    bench = Bench(GeneratorsConfig(restarts_per_hour=0), patience_s=10.0)
    bench.at(0.0)
    if why == "failed":
        bench.engines[0].code = 1
    else:
        bench.control.rejected = "another size"
    assert bench.at(1.0) is not None
    bench.control.connected = False
    assert bench.at(11.0) is not None
    assert bench.at(11.5) is None
    assert bench.supervisor.exit_code == 0


def test_the_engine_waits_for_the_caption_server() -> None:
    server = FakeServer()
    bench = Bench(server=server)
    bench.at(0.0)
    assert bench.engines == []
    server.url = "http://127.0.0.1:1/v1"
    bench.at(1.0)
    assert bench.urls == [server.url]
    bench.supervisor.close()
    assert server.closed


def test_a_caption_server_that_gave_up_is_an_error() -> None:
    server = FakeServer()
    server.error = "the node's caption server is out"
    bench = Bench(server=server)
    bench.at(0.0)
    assert bench.control.errors == [("the node's caption server is out", None)]


def test_budget_forgets_after_an_hour() -> None:
    budget = RestartBudget(per_hour=2, backoff_s=2.0)
    assert [budget.pause_before_restart(now) for now in (0.0, 10.0, 20.0)] == [2.0, 4.0, None]
    assert budget.pause_before_restart(3600.0) == 4.0
    assert RestartBudget(per_hour=0, backoff_s=2.0).pause_before_restart(0.0) is None


def test_no_two_starts_share_a_stream() -> None:
    streams = {
        stream_number(restarts=restarts, generator_index=index)
        for restarts in range(50)
        for index in range(200)
    }
    assert len(streams) == 50 * 200


def test_the_engines_environment() -> None:
    environ = {
        "RANK": "3",
        "MASTER_ADDR": "x",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "LOCAL_WORLD_SIZE": "2",
        "HOME": "/home/x",
        "CUDA_VISIBLE_DEVICES": "4,5",
    }
    assert set(scrubbed(environ)) == {"HOME", "CUDA_VISIBLE_DEVICES"}
    env = engine_environment(environ, gpu=1, cpu_threads=3)
    assert env["CUDA_VISIBLE_DEVICES"] == "5"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert engine_environment(environ, gpu=None, cpu_threads=1)["CUDA_VISIBLE_DEVICES"] == ""
    assert engine_environment({}, gpu=1, cpu_threads=1)["CUDA_VISIBLE_DEVICES"] == "1"


def test_control_group_tells_all_trainers() -> None:
    class Line:
        def __init__(self) -> None:
            self.end_seen = threading.Event()
            self.rejected: str | None = None
            self.comes_back = self.connected = False
            self.said: list[object] = []

        def status(self, state: PeerState, counters: dict[str, float]) -> None:
            self.said.append(state)

        def error(self, message: str, stream: int | None = None) -> None:
            self.said.append((message, stream))

        def close(self, goodbye_s: float = 5.0) -> bool:
            self.said.append("bye")
            return True

    lines = [Line(), Line()]
    group = ControlGroup(lines)
    group.status("running", {})
    group.error("dead", 3)
    assert not group.ended
    lines[1].end_seen.set()
    lines[1].rejected = "no"
    assert group.ended
    assert group.rejected == "no"
    group.close(1.0)
    assert [line.said for line in lines] == [["running", ("dead", 3), "bye"]] * 2


def test_reports_survive_a_torn_line_and_end_with_the_pipe() -> None:
    reading, writing = os.pipe()
    reader, writer = ReportReader(reading), ReportWriter(writing)
    writer.status("running", {"captions_written": 4.0})
    os.write(writing, b'{"state": "run')
    assert [report.counters for report in reader.read()] == [{"captions_written": 4.0}]
    os.write(writing, b'ning"}\nnot json\n')
    assert [report.state for report in reader.read()] == ["running"]
    writer.failure("ValueError: " + "x" * 5000, final=True)
    os.close(writing)
    (failed,) = reader.read()
    assert failed.final
    assert failed.error.startswith("ValueError: xxx")
    assert len(failed.error) <= 2000
    assert reader.closed
    reader.close()


@pytest.fixture
def spec_that_fails(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_text("{}")
    return path


def test_a_real_child_reports_its_exception(spec_that_fails: Path, tmp_path: Path) -> None:
    env = engine_environment(os.environ, gpu=None, cpu_threads=1)
    child = EngineProcess(spec_that_fails, stream=0, env=env, log_path=tmp_path / "log")
    reports: list[Report] = []
    while not child.silent:
        reports += child.reports()
    child._process.wait(60)
    assert child.exit_code() == 1
    assert "ValidationError" in reports[-1].error
    assert "exit code 1" in child.last_words()
    child.close()


HOLDER = """
    import os, sys, time
    from pathlib import Path
    import generators.process as process

    def command(spec_path, *, lifeline_fd, report_fd):
        return [sys.executable, "-c", {child!r}, str(lifeline_fd), str(report_fd)]

    process.engine_command = command
    child = process.EngineProcess(
        Path("none"), stream=0, env=dict(os.environ), log_path=Path(sys.argv[1])
    )
    while not child.reports():
        time.sleep(0.01)
    print(child.pid, flush=True)
    time.sleep(600)
"""
CHILD = """
    import os, subprocess, sys, threading
    from generators.lifeline import end_everything, watch_parent
    from generators.reports import ReportWriter

    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    watch_parent(int(sys.argv[1]), on_stop=lambda: None, on_parent_gone=end_everything)
    ReportWriter(int(sys.argv[2])).status("running", {{}})
    threading.Event().wait()
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """A supervisor's process, its child and its grandchild."""
    child = textwrap.dedent(CHILD.replace("{{}}", "{}"))
    code = textwrap.dedent(HOLDER).format(child=child)
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
    )
    assert holder.stdout is not None
    engine = psutil.Process(int(holder.stdout.readline()))
    members = [psutil.Process(holder.pid), engine, *engine.children(recursive=True)]
    yield members
    for member in members:
        if member.is_running():
            member.kill()
    holder.wait(30)
    holder.stdout.close()


def test_nothing_outlives_a_killed_supervisor(family: list[psutil.Process]) -> None:
    assert len(family) == 3
    family[0].send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert alive == []


def test_specs_travel_through_a_file(tmp_path: Path) -> None:
    from generators.role import GeneratorRole
    from generators.spec import EngineSpec
    from online_synclr.config.schema import Config

    role = GeneratorRole(
        run_id="run",
        run_dir=tmp_path,
        incarnation=2,
        generator_index=1,
        node_index=0,
        local_generator_index=1,
        trainer_addresses=("ipc://a", "ipc://b"),
        gpu=None,
        cpu_threads=2,
    )
    spec = EngineSpec(config=Config(), role=role, stream=65537, server_url="")
    spec.write(tmp_path / "folder" / "spec.json")
    assert EngineSpec.read(tmp_path / "folder" / "spec.json") == spec
    assert json.loads((tmp_path / "folder" / "spec.json").read_text())["stream"] == 65537
    assert spec.device == "cpu"
    assert spec.image_shape == (4, 3, 256, 256)
