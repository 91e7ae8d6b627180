"""The parser that all commands share."""

import argparse
from typing import NoReturn

from online_synclr.config import ConfigError


class Parser(argparse.ArgumentParser):
    """Leaves it to the command line to say what is wrong: one line, on one rank of a node."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}; --help lists what there is.")
