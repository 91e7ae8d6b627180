"""`python -m online_synclr generate --connect ADDRESS`: a generator joins a running job.

No torchrun: it comes and goes while the job runs, and waits while the job is being restarted.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from online_synclr.commands.parser import Parser
from online_synclr.config import Config, ConfigError, check, load_config
from online_synclr.launch import check_concept_bank, num_gpus
from online_synclr.paths import CONFIGS_DIR

if TYPE_CHECKING:
    from generators.bootstrap import Bootstrap

_TRAINERS_OWN = ("stream.keys=null", "stream.host=127.0.0.1")
"""Settings that a shared file may have for the trainers: their keys and where they listen."""

_NEVER_S = 10 * 365 * 86400.0


def generate(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0 when the run is over or on Ctrl-C or SIGTERM.

    Raises:
        ConfigError: a setting or an option is wrong.
    """
    arguments = _parser().parse_intermixed_args(argv)
    # Beside the job's own logs, where it runs on this machine.
    folder = [f"run.dir={arguments.connect}"] if Path(arguments.connect).is_dir() else []
    overrides = [*folder, *arguments.overrides, *_TRAINERS_OWN]
    config = load_config(arguments.config or CONFIGS_DIR / "demo.yaml", overrides)
    check(config, num_trainers=None)
    _check_generator(config)
    from generators.bootstrap import find_bootstrap
    from generators.names import claimed_name, default_name
    from generators.outside import Outside, OutsideGenerator
    from online_synclr.stream.messages import MAX_RUN_ID

    bootstrap = find_bootstrap(arguments.connect)
    if len(arguments.run_id) > MAX_RUN_ID:
        raise ConfigError(f"--run-id is longer than {MAX_RUN_ID} characters, which no run's is.")
    key_name = _key_name(arguments.key, bootstrap)
    name = arguments.name or default_name(key_name)
    with claimed_name(name, number=arguments.name is None) as claimed:
        outside = Outside(
            bootstrap=bootstrap,
            name=claimed,
            key_path=arguments.key,
            run_id=arguments.run_id,
            gpu=_gpu(config, arguments.gpu),
            cpu_threads=config.run.cpu_threads or len(os.sched_getaffinity(0)),
            wait_s=_NEVER_S if arguments.wait_s is None else arguments.wait_s,
        )
        return OutsideGenerator(config, outside, say=lambda text: _say(claimed, text)).run()


def _key_name(path: Path | None, bootstrap: "Bootstrap") -> str | None:
    """The name in the key, which this generator's must begin with; None: no key is needed."""
    from online_synclr.stream.keys import RANKS, KeysError, load_generator_key

    if path is not None:
        try:
            name = load_generator_key(path).name
        except KeysError as error:
            raise ConfigError(f"--key: {error}.") from None
        if name == RANKS:
            raise ConfigError(
                f"--key={path} is for torchrun's own generators; make another with `python -m "
                "online_synclr keys DIR NAME`."
            )
        return name
    if (bootstrap.address() or "").startswith("tcp:"):
        raise ConfigError(
            "over tcp a generator needs a key; make one with `python -m online_synclr keys DIR "
            "NAME`, DIR being the trainers' stream.keys (or the folder keys/ of the run folder), "
            "and give DIR/generators/NAME.key as --key."
        )
    return None


def _check_generator(config: Config) -> None:
    from generators.errors import SetupError
    from generators.language.factory import check_installed

    check_concept_bank(config)
    try:
        check_installed(config.captions)
    except SetupError as error:
        raise ConfigError(str(error)) from None


def _gpu(config: Config, wanted: int) -> int | None:
    found = num_gpus(config)
    if found and not 0 <= wanted < found:
        raise ConfigError(f"--gpu={wanted} but this machine shows GPUs 0 to {found - 1}.")
    return wanted if found else None


def _say(name: str, text: str) -> None:
    print(f"online_synclr: {name}: {text}", file=sys.stderr, flush=True)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m online_synclr generate",
        description="Join a running job as one more generator, on one GPU or on the CPU, and leave "
        "with Ctrl-C or SIGTERM. While the job is away it is waited for.",
        epilog="The settings of captions, images and stream must fit the job's; models may differ.",
    )
    parser.add_argument(
        "--connect",
        required=True,
        metavar="ADDRESS",
        help="of any of the job's trainers, tcp://HOST:PORT, or the job's run folder on this "
        "machine",
    )
    parser.add_argument("--config", type=Path, help="YAML file; none: configs/demo.yaml")
    parser.add_argument(
        "--key", type=Path, metavar="NAME.key", help="this machine's key; needed for tcp"
    )
    parser.add_argument("--name", help="of this generator; none: its key's and the host's")
    parser.add_argument("--run-id", default="", help="join no other run than this one")
    parser.add_argument("--gpu", type=int, default=0, help="which of the GPUs it sees (default 0)")
    parser.add_argument(
        "--wait-s", type=float, help="leave after so long without a job; none: wait for ever"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser
