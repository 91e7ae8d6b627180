"""Reads a ledger: its attempts, what the run kept of each, and the groups in order.

An attempt that was continued from a checkpoint keeps its facts up to that checkpoint's step; what
it trained on afterwards was thrown away with the rest of its training. The order of groups is by
attempt, step, trainer and position, and is the same for every reader.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from online_synclr.ledger import columns
from online_synclr.ledger.blocks import HEADER_KIND, Damage, read_blocks
from online_synclr.ledger.facts import (
    FORMAT,
    FirstUse,
    Header,
    LedgerError,
    UseCount,
    file_name,
    ledger_folder,
)

_header_decoder = msgspec.msgpack.Decoder(Header)


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """One trainer's file of one attempt."""

    path: Path
    header: Header

    def facts(self, damages: list[Damage] | None = None) -> Iterator[FirstUse | UseCount]:
        """Everything readable in it, in the order written; adds the rest to `damages`.

        Raises:
            OSError: the file cannot be read.
            LedgerError: another version has written it.
        """
        noted = [] if damages is None else damages
        with self.path.open("rb") as file:
            for block in read_blocks(file):
                if isinstance(block, Damage):
                    noted.append(block)
                    continue
                kind, payload = block
                if kind == HEADER_KIND:
                    continue
                try:
                    firsts, counts = columns.decode(payload)
                except ValueError as error:
                    raise LedgerError(f"{self.path} is of another version: {error}.") from None
                yield from firsts
                yield from counts


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """The files of one attempt, by trainer. `kept_until`: the last step kept; None: all of them."""

    incarnation: int
    resumed_step: int
    files: tuple[LedgerFile, ...]
    kept_until: int | None

    @property
    def missing_files(self) -> list[str]:
        """Names of the files that the attempt's other trainers began and that are not here.

        A first block that is not whole makes a file missing too.
        """
        here = {file.header.trainer for file in self.files}
        num_trainers = max(file.header.num_trainers for file in self.files)
        return [file_name(self.incarnation, i) for i in range(num_trainers) if i not in here]

    def keeps(self, step: int) -> bool:
        """Whether what was trained on at that step belongs to the run."""
        return self.kept_until is None or step <= self.kept_until


@dataclass(frozen=True, slots=True)
class Entry:
    """A group of the run: its `number` in the run's order from 0, and where it stands."""

    number: int
    attempt: AttemptFiles
    file: LedgerFile
    fact: FirstUse


@dataclass(frozen=True, slots=True)
class Ledger:
    """A folder's attempts in order; `unreadable` are files whose first block is not whole."""

    folder: Path
    attempts: list[AttemptFiles]
    unreadable: list[Path]


def open_file(path: Path) -> LedgerFile | None:
    """A file by its header; None where that is not whole, as after a crash in its first moment.

    Raises:
        LedgerError: it cannot be read, or is of another version.
    """
    try:
        with path.open("rb") as file:
            first = next(read_blocks(file), None)
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror}); mend that.") from None
    if first is None or isinstance(first, Damage) or first[0] != HEADER_KIND:
        return None
    try:
        header = _header_decoder.decode(first[1])
    except (msgspec.MsgspecError, ValueError) as error:
        raise LedgerError(
            f"{path} is of another version ({error}); read it with the version that wrote it."
        ) from None
    if header.format != FORMAT:
        raise LedgerError(
            f"{path} has format {header.format}, this version reads {FORMAT}; read it with the "
            "version that wrote it."
        )
    return LedgerFile(path, header)


def read_ledger(run_or_ledger: Path) -> Ledger:
    """Open the ledger of a run folder, or a ledger folder.

    Raises:
        LedgerError: there is none, or it is not one run's.
    """
    folder = ledger_folder(run_or_ledger)
    opened = {path: open_file(path) for path in sorted(folder.glob("*.ledger"))}
    files = [file for file in opened.values() if file is not None]
    if not files:
        raise LedgerError(
            f"there is no ledger in {run_or_ledger}; name the folder of a run that has trained."
        )
    run_ids = sorted({file.header.run_id for file in files})
    if len(run_ids) > 1:
        raise LedgerError(
            f"{folder} holds ledgers of different runs ({', '.join(run_ids)}); keep those of one."
        )
    return Ledger(
        folder=folder,
        attempts=_in_order(files),
        unreadable=[path for path, file in opened.items() if file is None],
    )


def kept_entries(attempts: Iterable[AttemptFiles]) -> Iterator[Entry]:
    """The groups that the run trained on and kept, in the run's order.

    Raises:
        OSError: a file cannot be read.
    """
    number = 0
    for attempt in attempts:
        for file, fact in first_uses(attempt):
            if attempt.keeps(fact.step):
                yield Entry(number, attempt, file, fact)
                number += 1


def first_uses(attempt: AttemptFiles) -> Iterator[tuple[LedgerFile, FirstUse]]:
    """All groups of an attempt by step, trainer and position, thrown-away ones included."""
    return heapq.merge(
        *(_firsts_of(file) for file in attempt.files),
        key=lambda item: (item[1].step, item[0].header.trainer),
    )


def use_counts(entries: Iterable[Entry]) -> dict[int, UseCount]:
    """By number, the last count of each of these groups that the run kept; some have none yet."""
    by_file: dict[Path, list[Entry]] = {}
    for entry in entries:
        by_file.setdefault(entry.file.path, []).append(entry)
    found: dict[int, UseCount] = {}
    for of_file in by_file.values():
        numbers = {entry.fact.entry: entry.number for entry in of_file}
        attempt = of_file[0].attempt
        for fact in of_file[0].file.facts():
            if not isinstance(fact, UseCount) or fact.entry not in numbers:
                continue
            if attempt.keeps(fact.step):
                found[numbers[fact.entry]] = fact
    return found


def _firsts_of(file: LedgerFile) -> Iterator[tuple[LedgerFile, FirstUse]]:
    return ((file, fact) for fact in file.facts() if isinstance(fact, FirstUse))


def _in_order(files: Iterable[LedgerFile]) -> list[AttemptFiles]:
    by_incarnation: dict[int, list[LedgerFile]] = {}
    for file in files:
        by_incarnation.setdefault(file.header.incarnation, []).append(file)
    attempts: list[AttemptFiles] = []
    kept_until: int | None = None
    for incarnation in sorted(by_incarnation, reverse=True):
        of_trainers = sorted(by_incarnation[incarnation], key=lambda file: file.header.trainer)
        resumed_step = of_trainers[0].header.resumed_step
        attempts.append(AttemptFiles(incarnation, resumed_step, tuple(of_trainers), kept_until))
        # A later attempt may have begun before an earlier one did.
        kept_until = resumed_step if kept_until is None else min(kept_until, resumed_step)
    return attempts[::-1]
