"""`python -m online_synclr replay RUN --groups 10:20 --out DIR`: groups rendered again."""

import re
from collections.abc import Sequence
from pathlib import Path

from online_synclr.commands.parser import Parser
from online_synclr.config import ConfigError
from online_synclr.ledger.facts import LedgerError

_RANGE = re.compile(r"(\d+)(?::(\d+))?")


def replay(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: the ledger, the groups or the image model cannot be used.
    """
    parser = Parser(
        prog="python -m online_synclr replay",
        description="Render groups of a run again, from its ledger: a PNG for each group, its "
        "images side by side, and its recipe as JSON.",
        epilog="Groups are numbered from 0 in the order of attempt, step, trainer and position; "
        "training that was thrown away does not count. With the image model of the run, pixels "
        "are those that were trained on, up to the renderer's tolerance; on the same hardware and "
        "at the same --batch they are equal.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a ledger's folder")
    parser.add_argument("--groups", required=True, metavar="FIRST:END", help="or one number")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="is made")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="groups rendered together (as in the run)"
    )
    parser.add_argument("--each", action="store_true", help="a PNG for each image instead")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args(argv)
    first, end = _range(arguments.groups)
    if arguments.batch is not None and arguments.batch < 1:
        raise ConfigError(f"--batch={arguments.batch}: give 1 or more.")

    from generators.errors import GeneratorError
    from generators.replay import Replay

    try:
        return Replay(
            arguments.run,
            arguments.out,
            batch_groups=arguments.batch,
            each_image=arguments.each,
            device=arguments.device,
        ).render(first, end)
    except (LedgerError, GeneratorError) as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"replay: {error}.") from None


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--groups={text}: give numbers such as 10:20, or one number.")
    first = int(match[1])
    end = int(match[2]) if match[2] else first + 1
    if end <= first:
        raise ConfigError(f"--groups={text} has no group; the second number must be higher.")
    return first, end
