"""`python -m online_synclr evaluate BACKBONE ... --task knn --data DIR`: judge frozen backbones."""

import argparse
import pkgutil
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from online_synclr.commands.parser import Parser
from online_synclr.config import ConfigError
from online_synclr.paths import cache_folder
from online_synclr.process_control import signal_when_parent_ends
from online_synclr.topology import RankEnv

if TYPE_CHECKING:
    from evaluation.task import Task

EXIT_INTERRUPTED = 128 + signal.SIGINT
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def evaluate(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: an option is wrong, or nothing can be judged at all.
    """
    env = RankEnv.from_environ()
    parser, task = _parser(argv)
    options = parser.parse_intermixed_args(argv)
    if task is None:
        raise ConfigError(f"--task is needed; there are {', '.join(task_names())}.")
    _check(options)
    if env.under_torchrun:
        # Nobody else would end a rank whose torchrun was killed.
        signal_when_parent_ends(signal.SIGTERM)
    try:
        from evaluation.evaluate import evaluate as run

        return run(task, options, env, shlex.join(["evaluate", *argv]))
    except KeyboardInterrupt:
        if env.rank == 0:
            print(
                "online_synclr: evaluate: interrupted; what is finished is kept, and the same "
                "command goes on from there.",
                file=sys.stderr,
            )
        return EXIT_INTERRUPTED


def task_names() -> list[str]:
    """The tasks there are: the modules of `evaluation.tasks`."""
    from evaluation import tasks

    return sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))


def _parser(argv: Sequence[str]) -> tuple[Parser, "Task | None"]:
    """The parser, with the options of the task that `argv` names."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--task")
    name = first.parse_known_args(argv)[0].task
    parser = Parser(
        prog="python -m online_synclr evaluate",
        description="Judge frozen backbones on labelled images: several at once give one table. "
        "Under torchrun all ranks take part.",
        epilog=None
        if name
        else "Each task has options of its own: evaluate --task NAME --help shows them. "
        "docs/evaluation.md has the protocols.",
        allow_abbrev=False,
    )
    _add_common(parser)
    if name is None:
        return parser, None
    if name not in task_names():
        raise ConfigError(f"--task={name}: there are {', '.join(task_names())}.")
    task: Task = import_module(f"evaluation.tasks.{name}").TASK
    task.add_options(parser.add_argument_group(f"--task {name}", task.help))
    return parser, task


def _add_common(parser: Parser) -> None:
    parser.add_argument(
        "backbones",
        nargs="+",
        metavar="BACKBONE",
        help="a run's folder (RUN, RUN:student) or checkpoint, an exported folder, a timm model "
        "(NAME with its weights, random:NAME), or synclr:FILE",
    )
    parser.add_argument("--task", help=f"one of {', '.join(task_names())}")
    parser.add_argument(
        "--data",
        action="append",
        metavar="DATA",
        help="an image folder (<class>/<image>, or so below train, val, test), check_set, "
        "fashion-mnist[:DIR], torchvision:CLASS:DIR or hf:NAME; may be given several times",
    )
    parser.add_argument("--out", metavar="DIR", help="add results.json, .md and .png there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument(
        "--batch-images", type=int, default=64, metavar="N", help="at once (default 64)"
    )
    parser.add_argument(
        "--image-px", type=int, metavar="PX", help="side of the crop (default: the backbone's own)"
    )
    parser.add_argument(
        "--crop-pct",
        type=_crop_pct,
        default=1.0,
        metavar="SHARE",
        help="of the shorter side that the centre crop keeps; `own`: what the backbone's "
        "configuration says (default 1)",
    )
    parser.add_argument(
        "--cache",
        default=str(cache_folder()),
        metavar="DIR",
        help="features are kept there (default %(default)s)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no features")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the backbone; auto: bf16 where the device is faster with it (default auto)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="of a rank, for computing and reading images (default: the cores, shared by ranks)",
    )


def _crop_pct(text: str) -> float | None:
    if text == "own":
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"give `own`, or a number above 0 and up to 1, not {text}")
    return share


def _check(options: argparse.Namespace) -> None:
    if not _DEVICE.fullmatch(options.device):
        raise ConfigError(f"--device={options.device}: give auto, cpu, cuda or cuda:N.")
    for name, least in (("batch_images", 1), ("image_px", 1), ("threads", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')}={value}: give {least} or more.")
