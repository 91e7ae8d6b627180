"""`python -m online_synclr keys DIR [NAME ...]`: make a run's keys, or add some."""

from collections.abc import Sequence
from pathlib import Path

from online_synclr.commands.parser import Parser
from online_synclr.config import ConfigError


def make_keys(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: the folder or a name cannot be used.
    """
    from online_synclr.stream.keys import KeyFolder, KeysError

    parser = Parser(
        prog="python -m online_synclr keys",
        description="Make the keys of a run, or add some: who holds one may send it groups.",
        epilog="Set stream.keys=DIR on every host of the run. A machine that joins with a NAME of "
        "its own needs DIR/generators/NAME.key only; removing the trainers' copy of that file "
        "shuts it out.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of generators elsewhere")
    arguments = parser.parse_args(argv)
    try:
        made = KeyFolder(arguments.folder).make(arguments.names)
    except KeysError as error:
        raise ConfigError(f"{error}.") from None
    for path in made:
        print(f"made {path}")
    if not made:
        print(f"{arguments.folder} has these keys already")
    return 0
