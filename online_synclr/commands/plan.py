"""`python -m online_synclr plan --config FILE --gpus 8`: how to split ranks between both sides."""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from online_synclr.commands.parser import Parser
from online_synclr.config import Config, ConfigError, check, load_config
from online_synclr.launch import check_concept_bank, num_gpus
from online_synclr.monitor.formats import num_bytes
from online_synclr.paths import CONFIGS_DIR
from online_synclr.planning.finished import config_of_run, rates_of_run
from online_synclr.planning.measurement import MeasurementError
from online_synclr.planning.measuring import Bench
from online_synclr.planning.model import Prediction, Workload, best, predict_all
from online_synclr.planning.rates import GeneratorRate, Rates, StepTimes
from online_synclr.planning.splits import Splits, find_splits
from online_synclr.planning.table import Plan

SECONDS = 15.0
EXIT_INTERRUPTED = 128 + signal.SIGINT


def plan(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: a setting or an option is wrong, or a side cannot be measured.
    """
    try:
        return _plan(_parser().parse_intermixed_args(argv))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _plan(arguments: argparse.Namespace) -> int:
    _check(arguments)
    config = _load(arguments)
    splits = find_splits(config, ranks=arguments.ranks, nodes=arguments.nodes)
    rates = _rates(arguments, config, splits)
    workload = Workload.of(config)
    predictions = predict_all(rates, workload, splits.allowed, nodes=arguments.nodes)
    shown = Plan(
        workload=workload,
        rates=rates,
        nodes=arguments.nodes,
        ranks=arguments.ranks,
        predictions=predictions,
        refused=splits.refused,
        command=_command(arguments, best(predictions)),
    )
    print(json.dumps(shown.figures(), indent=1) if arguments.json else shown.text())
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.ranks < 2:
        raise ConfigError(
            f"--ranks={arguments.ranks}: a run needs a generator and a trainer; give 2 or more."
        )
    if arguments.nodes < 1:
        raise ConfigError(f"--nodes={arguments.nodes}: give 1 or more.")
    for name in ("generator_groups_per_s", "trainer_images_per_s", "seconds"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')}={value:g}: give more than 0.")
    given = arguments.generator_groups_per_s, arguments.trainer_images_per_s
    if arguments.measured is not None and any(one is not None for one in given):
        raise ConfigError("--measured takes both rates from a run; leave the given rates out.")


def _load(arguments: argparse.Namespace) -> Config:
    path = arguments.config
    if path is None:
        measured = arguments.measured
        path = CONFIGS_DIR / "demo.yaml" if measured is None else config_of_run(measured)
    config = load_config(path, arguments.overrides)
    check(config, num_trainers=None)
    check_concept_bank(config)
    return config


def _rates(arguments: argparse.Namespace, config: Config, splits: Splits) -> Rates:
    """Given ones, a run's, or what this machine does."""
    if arguments.measured is not None:
        return rates_of_run(arguments.measured)
    groups_per_s, images_per_s = arguments.generator_groups_per_s, arguments.trainer_images_per_s
    if groups_per_s is not None and images_per_s is not None:
        return Rates(
            generator=GeneratorRate(groups_per_s=groups_per_s),
            trainer=StepTimes.at_rate(images_per_s),
            source="as given",
        )
    found = num_gpus(config)
    bench = Bench(
        config=config,
        ranks=arguments.ranks,
        num_gpus=min(found, arguments.ranks),
        seconds=arguments.seconds,
        say=_say,
    )
    try:
        generator = (
            bench.generator(max(split.generators for split in splits.allowed))
            if groups_per_s is None
            else GeneratorRate(groups_per_s=groups_per_s)
        )
        trainer = (
            bench.trainers(splits.allowed, nodes=arguments.nodes)
            if images_per_s is None
            else StepTimes.at_rate(images_per_s)
        )
    except MeasurementError as error:
        raise ConfigError(f"plan: {error}") from None
    given = groups_per_s is not None or images_per_s is not None
    return Rates(
        generator=generator,
        trainer=trainer,
        source="measured here" + (", but for the one given" if given else ""),
        notes=tuple(_notes(bench, trainer, splits, arguments.nodes)),
    )


def _notes(bench: Bench, trainer: StepTimes, splits: Splits, nodes: int) -> list[str]:
    """What the measurement could not see."""
    config = bench.config
    pool = num_bytes(config.pool.max_bytes)
    notes = [f"a trainer's host memory grows by its pool, at most {pool} (pool.max_bytes)"]
    if config.synthetic_parts:
        notes.append(f"SYNTHETIC ENGINES, not a real run: {', '.join(config.synthetic_parts)}")
    if not bench.num_gpus:
        notes.append(f"no GPU is used: {bench.cpu_threads} CPU threads for each of the ranks")
        if bench.ranks > bench.num_cores:
            notes.append(
                f"{bench.ranks} ranks will share {bench.num_cores} cores, but each was measured "
                "with a core of its own: what computes all the time will be slower"
            )
    elif bench.num_gpus < bench.ranks:
        notes.append(
            f"this machine has {bench.num_gpus} of {bench.ranks} GPUs: each rank was measured with "
            "one of its own"
        )
    if config.captions.url and config.captions.backend in ("auto", "openai"):
        notes.append("the caption server was asked by one generator only, in a run all will ask it")
    if not all(trainer.exchanged(split.trainers) for split in splits.allowed):
        notes.append("exchanging gradients is in no figure of trainers that were measured alone")
    if nodes > 1:
        notes.append("exchanging gradients between nodes is in no figure")
    return notes


def _command(arguments: argparse.Namespace, chosen: Prediction | None) -> str:
    """What runs the best split, as one types it."""
    if chosen is None:
        return ""
    launcher = [f"--nproc_per_node={arguments.ranks}"]
    if arguments.nodes > 1:
        launcher = [f"--nnodes={arguments.nodes}", *launcher, "--rdzv_backend=c10d"]
        launcher.append("--rdzv_endpoint=HOST:29400")
    path = arguments.config
    settings = [one for one in arguments.overrides if not one.startswith("topology.")]
    if path is None and arguments.measured is not None:
        # The settings are the run's own, its folder among them: it goes on where it stopped.
        path = config_of_run(arguments.measured)
        settings.append("trainer.resize_on_resume=true")
    words = [
        "torchrun",
        *launcher,
        *("-m", "online_synclr", "--config", str(path or "configs/demo.yaml")),
        *settings,
        f"topology.generators={chosen.split.generators}",
        f"topology.trainers={chosen.split.trainers}",
    ]
    return shlex.join(words)


def _say(text: str) -> None:
    print(f"online_synclr: plan: {text}", file=sys.stderr, flush=True)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m online_synclr plan",
        description="Say how to split a node's ranks between generating and training: measures one "
        "generator and the trainers' step on this machine, with the engines and the model of the "
        "settings, and predicts every split.",
        epilog="On CPU the ranks share the cores. Settings can be given as section.key=value. With "
        "one of the two rates given only the other side is measured.",
    )
    parser.add_argument("--config", type=Path, help="YAML file; none: configs/demo.yaml")
    parser.add_argument(
        "--gpus", "--ranks", dest="ranks", type=int, default=8, help="ranks of a node (default 8)"
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes, all split alike (default 1)")
    parser.add_argument(
        "--measured", type=Path, metavar="RUN", help="take the rates from a run's metrics"
    )
    parser.add_argument(
        "--generator-groups-per-s", type=float, metavar="X", help="of one generator, as known"
    )
    parser.add_argument(
        "--trainer-images-per-s", type=float, metavar="Y", help="of one trainer, as known"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"of each measurement, after a warm-up of a third (default {SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="figures for programs")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser
