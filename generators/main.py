"""Entry point of a generator rank: builds its supervisor and runs it.

rank (main thread): supervisor loop    control threads: STATUS, ERROR, END
   |  spawns                            one for each trainer that is served
engine child (see `generators.engine`)
"""

import multiprocessing.connection
import os
import signal
from collections.abc import Callable
from pathlib import Path

from generators.control_group import ControlGroup
from generators.environment import engine_environment, server_environment
from generators.language.server import CaptionServer, NodeServer, SharedServer
from generators.process import EngineProcess
from generators.restarts import RestartBudget, stream_number
from generators.role import GeneratorRole
from generators.spec import EngineSpec
from generators.supervisor import Outcome, Supervisor
from online_synclr.config.schema import EMBEDDED, Config
from online_synclr.stop_signals import stop_signal_pipe
from online_synclr.stream.messages import Hello
from online_synclr.stream.socket_folder import remove_abandoned

__all__ = ["GeneratorRole", "run_generator"]

_GOODBYE_S = 5.0


def run_generator(
    config: Config, role: GeneratorRole, *, moved_on: Callable[[], bool] = lambda: False
) -> int:
    """Play a generator rank until END or a signal; returns its exit code.

    A rank must stay as long as the run goes on, so it idles where another generator would leave.
    `moved_on`: whether this attempt is over, as asked when no trainer is heard: word of END may
    have been lost.
    """
    supervisor = _play(
        config, role, abandoned=lambda unheard_s: moved_on(), leaving=lambda: False, idles=True
    )
    return supervisor.exit_code


def play(
    config: Config,
    role: GeneratorRole,
    *,
    abandoned: Callable[[float], bool],
    leaving: Callable[[], bool],
) -> Outcome:
    """Play a generator of the run that torchrun has not started; returns how it ended.

    `abandoned`: whether to give the job up after so many seconds without any trainer. `leaving`:
    whether it was asked to leave before this could hear of it.
    """
    return _play(config, role, abandoned=abandoned, leaving=leaving, idles=False).outcome


def _play(
    config: Config,
    role: GeneratorRole,
    *,
    abandoned: Callable[[float], bool],
    leaving: Callable[[], bool],
    idles: bool,
) -> Supervisor:
    """Call it from the main thread, which it keeps: the engine child is told by the kernel when the
    thread that started it ends.
    """
    control = _connect(config, role)
    try:
        supervisor = Supervisor(
            start_engine=lambda restarts, url: start_engine(config, role, restarts, url),
            control=control,
            settings=config.generators,
            heartbeat_s=config.stream.heartbeat_s,
            grace_s=config.run.grace_s,
            server=_caption_server(config, role),
            say=lambda text: _say(role, text),
            abandoned=abandoned,
            idles=idles,
        )
        _supervise(supervisor, leaving)
        return supervisor
    finally:
        control.close(_GOODBYE_S)
        # A trainer of this host that was killed left its socket behind; this may be the last
        # process of the job.
        remove_abandoned()


def start_engine(
    config: Config, role: GeneratorRole, restarts: int, server_url: str
) -> EngineProcess:
    """Start this generator's engine for the (restarts + 1)th time."""
    stream = stream_number(restarts=restarts, generator_index=role.generator_index)
    spec = EngineSpec(config=config, role=role, stream=stream, server_url=server_url)
    folder = role.run_dir / "logs"
    name = role.file_name(restarts)
    spec_path = folder / f"{name}.json"
    spec.write(spec_path)
    return EngineProcess(
        spec_path,
        stream=stream,
        env=engine_environment(os.environ, gpu=role.gpu, cpu_threads=role.cpu_threads),
        log_path=folder / f"{name}.log",
    )


def _supervise(supervisor: Supervisor, leaving: Callable[[], bool]) -> None:
    with stop_signal_pipe(supervisor.stop) as wakeup_fd:
        if leaving():
            supervisor.stop(signal.SIGTERM)
        try:
            while (pause_s := supervisor.step()) is not None:
                _wait(supervisor, wakeup_fd, pause_s)
        finally:
            supervisor.close()


def _wait(supervisor: Supervisor, wakeup_fd: int, pause_s: float) -> None:
    """Wait for a report, the end of the child, a signal, or `pause_s`."""
    sources: list[int] = [wakeup_fd]
    engine = supervisor.engine
    if isinstance(engine, EngineProcess) and not engine.silent:
        sources.append(engine.fileno())
    ready = multiprocessing.connection.wait(sources, pause_s)
    if wakeup_fd in ready:
        os.read(wakeup_fd, 4096)


def _connect(config: Config, role: GeneratorRole) -> ControlGroup:
    from online_synclr.stream.control import ControlClient
    from online_synclr.stream.fan_out import choose_trainers

    spec = EngineSpec(config=config, role=role, stream=role.generator_index, server_url="")
    hello = Hello(
        run_id=role.run_id,
        generator_id=role.generator_id,
        role="control",
        incarnation=role.incarnation,
        stream=spec.stream,
        image_shape=spec.image_shape,
    )
    chosen = choose_trainers(
        len(role.trainer_addresses), config.stream.fan_out, role.serving_position
    )
    key = role.key()
    return ControlGroup(
        [
            ControlClient(
                role.trainer_addresses[index],
                hello,
                heartbeat_s=config.stream.heartbeat_s,
                key=key,
            )
            for index in chosen
        ]
    )


def _caption_server(config: Config, role: GeneratorRole) -> CaptionServer | None:
    """The node's server: ours to run for the node's first generator, else the others' to find."""
    uses_server = config.captions.backend in ("auto", "openai", "vllm")
    if config.captions.server != "per_node" or not uses_server:
        return None
    folder = role.run_dir / "logs"
    name = f"caption-server-{role.incarnation}-node{role.node_index}"
    address_path = folder / f"{name}.json"
    if role.local_generator_index > 0:
        return SharedServer(address_path=address_path)
    return _node_server(config, role, address_path)


def _node_server(config: Config, role: GeneratorRole, address_path: Path) -> NodeServer:
    from generators.language.embedded_llm import embedded_llm_folder_by_child
    from generators.language.server_process import GuardedProcess, free_port, vllm_command

    settings = config.captions.vllm
    gpu = role.gpu if settings.server_device is None or role.gpu is None else settings.server_device
    device = "cpu" if gpu is None else "cuda"
    env = server_environment(os.environ, gpu=gpu, cpu_threads=role.cpu_threads)

    def start(port: int) -> GuardedProcess:
        model = config.captions.model
        if model == EMBEDDED:
            model = str(embedded_llm_folder_by_child())
        command = vllm_command(model, settings, device=device, port=port)
        return GuardedProcess(command, env=env, log_path=address_path.with_suffix(".log"))

    return NodeServer(
        start=start,
        port=free_port(),
        address_path=address_path,
        budget=RestartBudget(
            per_hour=config.generators.restarts_per_hour,
            backoff_s=config.generators.backoff_s,
            backoff_max_s=config.generators.backoff_max_s,
        ),
        startup_s=config.generators.stall_s,
        say=lambda text: _say(role, text),
    )


def _say(role: GeneratorRole, text: str) -> None:
    print(f"online_synclr: {role.generator_id}: {text}", flush=True)
