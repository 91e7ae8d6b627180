"""What a task is to the command line: its options, and how it is run."""

import argparse
from collections.abc import Sequence
from typing import Protocol

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.results import Result


class Task(Protocol):
    """A module-level object `TASK` of each module in `evaluation/tasks/`."""

    name: str
    """As given to --task."""
    help: str
    """One line."""

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """Options of its own, beside --data; long names, all with defaults and units."""

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """Judge one backbone. Every rank calls it; the first one's results count.

        Raises:
            EvaluationError: the data, or an option, cannot be used.
        """
