"""The folder that `--out` names: results of every call that wrote there, one beside another.

results.json   all records       results.md   their tables       results.png   their plot
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.report.plot import draw
from evaluation.report.records import Record, merged, read_records, to_json
from evaluation.report.table import markdown
from online_synclr.run_folder import write_durably

_HEAD = "# Evaluation\n\nDetails of every figure are in `results.json`.\n\n"


class ReportFolder:
    """Several processes may write into one folder: each call reads what the others left.

    Raises:
        EvaluationError: the folder cannot be made or written to, or holds other results.json.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            with self._locked():
                read_records(self._json)
        except OSError as error:
            raise EvaluationError(
                f"--out={root} cannot be written to ({error.strerror}); name another folder."
            ) from None

    def add(self, records: Sequence[Record]) -> None:
        """Merge new records into the JSON file and the tables.

        Raises:
            OSError: they cannot be written; the files are as they were.
        """
        with self._locked():
            everything = merged(read_records(self._json), records)
            write_durably(self._json, to_json(everything))
            write_durably(self.root / "results.md", _HEAD + markdown(everything))

    def draw(self) -> None:
        """Draw the plot of all records.

        Raises:
            OSError: it cannot be written.
        """
        with self._locked():
            temporary = self.root / ".results.png.tmp"
            if draw(read_records(self._json), temporary):
                temporary.replace(self.root / "results.png")

    @property
    def _json(self) -> Path:
        return self.root / "results.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Waits for other processes that write here; the lock goes with whoever holds it."""
        with (self.root / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
