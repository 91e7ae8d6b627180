"""The command line: parse, build, run, close.

    torchrun --nproc_per_node=8 -m online_synclr --config configs/vitb16_8gpu.yaml key=value ...
    python -m online_synclr --config ... --dry-run
    python -m online_synclr keys DIR [NAME ...]
    python -m online_synclr generate --connect ADDRESS --config ... key=value ...
    python -m online_synclr plan --config ... --gpus 8
    python -m online_synclr ledger RUN
    python -m online_synclr replay RUN --groups 10:20 --out DIR
    python -m online_synclr evaluate BACKBONE ... --task knn --data DATA
    python -m online_synclr export RUN --out DIR
    torchrun --nproc_per_node=8 -m online_synclr finetune RUN --data DIR --out RUN2

A wrong setting ends with one line on standard error and exit code 2, before torch is imported.
A role's package is imported only by the ranks that play it.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from online_synclr import __version__
from online_synclr.commands.evaluate import evaluate
from online_synclr.commands.export import export
from online_synclr.commands.finetune import finetune
from online_synclr.commands.generate import generate
from online_synclr.commands.keys import make_keys
from online_synclr.commands.ledger import show_ledger
from online_synclr.commands.parser import Parser
from online_synclr.commands.plan import plan
from online_synclr.commands.replay import replay
from online_synclr.config import Config, ConfigError, check, load_config, resolved_yaml
from online_synclr.launch import check_concept_bank
from online_synclr.paths import CONFIGS_DIR
from online_synclr.process_control import GOES_ON, signal_when_parent_ends, start_anew
from online_synclr.topology import (
    RankEnv,
    check_gpus,
    check_roster,
    node_split,
    planned_roster,
)

EXIT_WRONG_SETTING = 2
SILENT_RANK_S = 2.0
DEFAULT_CONFIG = CONFIGS_DIR / "demo.yaml"
DEFAULT_OVERRIDES = ("topology.generators=null", "topology.trainers=null", "run.dir=runs/default")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m online_synclr`; returns the exit code."""
    launch_time = time.time()
    env = RankEnv.from_environ()
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in _SUBCOMMANDS:
            return _SUBCOMMANDS[argv[0]](argv[1:])
        arguments = _parser().parse_intermixed_args(argv)
        config = _load(arguments, env)
        if arguments.dry_run:
            return _dry_run(config, _planned_env(config, arguments, env))
        return _run(config, env, launch_time)
    except ConfigError as error:
        _say_once(str(error), env, spokesman=env.local_rank == 0)
        return EXIT_WRONG_SETTING


def _say_once(sentence: str, env: RankEnv, *, spokesman: bool) -> None:
    """One rank of a node says what is wrong.

    The silent ones stay a moment: torchrun ends every rank as soon as one has failed, and the one
    that speaks may be the last to get here.
    """
    if spokesman:
        print(f"online_synclr: {sentence}", file=sys.stderr, flush=True)
    elif env.under_torchrun:
        time.sleep(SILENT_RANK_S)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="torchrun --nproc_per_node=N -m online_synclr",
        description="Learn visual representations from captions and images generated while "
        "training: some ranks generate, the others train.",
        epilog="Settings are listed in online_synclr/config/schema.py; any of them can be given "
        "as section.key=value. Instead of all that: `keys DIR` makes keys for several hosts, "
        "`generate --connect ADDRESS` joins a running job as a generator, `ledger RUN` counts what "
        "a run trained on, `replay RUN` renders groups of it again, `plan` says how to split the "
        "ranks, `evaluate BACKBONE` judges what was learned, `export RUN` hands it to timm and "
        "transformers, `finetune RUN` goes on with labelled images (each with --help).",
    )
    parser.add_argument("--config", type=Path, help="YAML file; shipped ones lie in configs/")
    parser.add_argument("--resume", help="auto, never, or a checkpoint (sets run.resume)")
    parser.add_argument("--dry-run", action="store_true", help="print settings and ranks, and stop")
    parser.add_argument("--nproc_per_node", type=int, help="with --dry-run: ranks on each node")
    parser.add_argument("--nnodes", type=int, default=1, help="with --dry-run: nodes")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser


def _load(arguments: argparse.Namespace, env: RankEnv) -> Config:
    """Load and check; with no --config, the embedded models on a split of all ranks."""
    overrides = list(arguments.overrides)
    if arguments.resume is not None:
        overrides.append(f"run.resume={arguments.resume}")
    if arguments.config is None:
        overrides = [*DEFAULT_OVERRIDES, *overrides]
    config = load_config(arguments.config or DEFAULT_CONFIG, overrides)
    planned = _planned_env(config, arguments, env)
    split = node_split(config, planned.local_world_size)
    # Other nodes may split otherwise: what depends on their trainers is checked with the roster.
    check(config, num_trainers=split.trainers or None if planned.num_nodes == 1 else None)
    if arguments.config is None and env.rank == 0:
        print(
            f"no --config given: embedded models, {split.generators} generators and "
            f"{split.trainers} trainers on this node, run folder {config.run.dir}; to change it, "
            f"copy {DEFAULT_CONFIG}.",
            flush=True,
        )
    return config


def _planned_env(config: Config, arguments: argparse.Namespace, env: RankEnv) -> RankEnv:
    """The ranks to plan for: torchrun's, or without it those asked for on the command line."""
    if env.under_torchrun:
        return env
    asked = (config.topology.generators or 0) + (config.topology.trainers or 0)
    local = arguments.nproc_per_node or max(asked, 2)
    return RankEnv(
        rank=0,
        local_rank=0,
        world_size=local * arguments.nnodes,
        local_world_size=local,
        node=0,
        num_nodes=arguments.nnodes,
        restart_count=0,
        under_torchrun=False,
    )


def _dry_run(config: Config, env: RankEnv) -> int:
    num_gpus = _num_gpus_without_torch(config)
    roster = planned_roster(
        config,
        num_nodes=env.num_nodes,
        local_world_size=env.local_world_size,
        num_gpus=num_gpus,
    )
    check_roster(roster, config)
    check_gpus(config, node_split(config, env.local_world_size), num_gpus)
    check_concept_bank(config)
    if env.rank == 0:
        print(resolved_yaml(config))
        print(roster.table())
        for part in config.synthetic_parts:
            print(f"SYNTHETIC: {part} is a stand-in for tests and benchmarks, not a real engine.")
    return 0


def _num_gpus_without_torch(config: Config) -> int:
    """GPUs of this host as its driver lists them; what torch will see is checked in the run."""
    if config.run.device == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # As CUDA reads it: the list ends at the first name that is no GPU's.
        return len(list(takewhile(lambda name: name and not name.startswith("-"), names)))
    driver = Path("/proc/driver/nvidia/gpus")
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def _run(config: Config, env: RankEnv, launch_time: float) -> int:
    from online_synclr.launch import RankFailedError, run_rank

    if not env.under_torchrun:
        ranks = max(2, (config.topology.generators or 0) + (config.topology.trainers or 0))
        raise ConfigError(
            f"topology asks for {ranks} ranks but this is one process without torchrun; launch "
            f"torchrun --nproc_per_node={ranks} -m online_synclr ..., or add --dry-run."
        )
    # Nobody else would end or restart a rank whose torchrun was killed: it saves and leaves.
    signal_when_parent_ends(signal.SIGTERM)
    try:
        code = run_rank(config, env, launch_time)
        if code == GOES_ON:
            start_anew()
        return code
    except RankFailedError as error:
        _say_once(str(error), env, spokesman=error.spokesman)
        return error.exit_code


_SUBCOMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "evaluate": evaluate,
    "export": export,
    "keys": make_keys,
    "finetune": finetune,
    "generate": generate,
    "ledger": show_ledger,
    "plan": plan,
    "replay": replay,
}


if __name__ == "__main__":
    sys.exit(main())
