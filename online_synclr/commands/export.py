"""`python -m online_synclr export RUN --out DIR`: a run's backbone for timm, transformers, ONNX."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from online_synclr.commands.parser import Parser
from online_synclr.config import ConfigError

_Network = Literal["teacher", "student"]
_NETWORKS: Final[tuple[_Network, ...]] = ("teacher", "student")


def export(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: the run, an option or the place cannot be used; nothing is written.
    """
    arguments = _parser().parse_args(argv)
    if arguments.checkpoint is not None and arguments.checkpoint < 0:
        raise ConfigError(f"--checkpoint={arguments.checkpoint}: give a step, 0 or more.")
    source, network = _network(arguments.run, student=arguments.student)

    from evaluation.export.export import Export
    from evaluation.export.export import export as write

    asked = Export(
        source=source,
        out=arguments.out.expanduser(),
        network=network,
        step=arguments.checkpoint,
        onnx="onnx" in arguments.format,
        results=arguments.results,
        title=arguments.title,
        licence=arguments.licence,
        force=arguments.force,
    )
    write(asked, _say)
    for path in sorted(path for path in asked.out.rglob("*") if path.is_file()):
        print(f"{path}  {path.stat().st_size} bytes")
    print(f"to publish it: hf upload USER/NAME {asked.out}")
    return 0


def _network(run: str, *, student: bool) -> tuple[Path, _Network]:
    """`RUN:student` means what --student does, as in `evaluate`."""
    for network in _NETWORKS:
        if run.endswith(f":{network}"):
            if student and network != "student":
                raise ConfigError(f"{run} and --student contradict each other; leave one out.")
            return Path(run.removesuffix(f":{network}")).expanduser(), network
    return Path(run).expanduser(), "student" if student else "teacher"


def _say(text: str) -> None:
    print(f"online_synclr: export: {text}", file=sys.stderr, flush=True)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m online_synclr export",
        description="Write a run's backbone as a folder that timm.create_model('local-dir:DIR', "
        "pretrained=True) and transformers' AutoModel.from_pretrained('DIR') load, with a model "
        "card. The features are compared with the trained network's before the folder is there.",
        epilog="What is at --out already stays, unless it is an export and --force is given.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder, or a checkpoint's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="is made")
    parser.add_argument("--student", action="store_true", help="instead of the teacher")
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="that step's; none: the newest"
    )
    parser.add_argument(
        "--format",
        choices=("timm", "onnx"),
        nargs="+",
        default=["timm"],
        help="onnx: a file for ONNX runtimes besides (any batch size, one image size)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="results.json of `evaluate`, for the card's table",
    )
    parser.add_argument("--title", default="", help="of the card; none: the run's name")
    parser.add_argument(
        "--licence",
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights, by the hub's ids, such as apache-2.0 (default unknown)",
    )
    parser.add_argument("--force", action="store_true", help="replace an export at --out")
    return parser
