"""`python -m online_synclr ledger RUN`: what a run trained on; no seed used twice."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from online_synclr.commands.parser import Parser
from online_synclr.config import ConfigError
from online_synclr.ledger.facts import LedgerError
from online_synclr.ledger.reading import Ledger, read_ledger
from online_synclr.ledger.totals import AttemptTotals, LedgerTotals, count_ledger
from online_synclr.monitor.summary import Summary
from online_synclr.run_folder import RunFolder

EXIT_BROKEN = 1


def show_ledger(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code: 1 if seeds were used twice, files are missing or
    counts disagree.

    Raises:
        ConfigError: there is no ledger, or it cannot be read.
    """
    parser = Parser(
        prog="python -m online_synclr ledger",
        description="Count what a run trained on, from its ledger.",
        epilog="Exit code 1: a seed key occurs twice, a trainer's file is missing, or the run's "
        "summary.json counts otherwise.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a ledger's folder")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    arguments = parser.parse_args(argv)
    try:
        ledger = read_ledger(arguments.run)
        totals = count_ledger(ledger)
    except LedgerError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{arguments.run} cannot be read ({error.strerror}).") from None
    summary = summary_to_compare(ledger, totals, arguments.run)
    not_compared = summary if isinstance(summary, str) else None
    broken = [*repeated_seeds(totals), *disagreements(ledger, totals, arguments.run)]
    missing = totals.missing_files
    if arguments.json:
        words = {"missing_files": missing, "not_compared": not_compared, "broken": broken}
        print(json.dumps(_figures(totals) | words, indent=1))
    else:
        lines = [*_lines(ledger, totals), *(f"WRONG: {line}" for line in broken)]
        lines += [f"MISSING: {name}; what it holds is in no count here" for name in missing]
        if not_compared is not None:
            lines.append(f"NOT COMPARED with the summary: {not_compared}")
        print("\n".join(lines))
    return EXIT_BROKEN if broken or missing else 0


def repeated_seeds(totals: LedgerTotals) -> Iterator[str]:
    """A sentence if any key (run seed, incarnation, stream, counter) occurs twice."""
    if totals.duplicates:
        keys = ", ".join("/".join(map(str, key)) for key in totals.examples)
        yield (
            f"{totals.duplicates} groups have the seeds of another one (run seed/incarnation/"
            f"stream/counter: {keys})"
        )


def summary_to_compare(ledger: Ledger, totals: LedgerTotals, run: Path) -> Summary | str | None:
    """The run's summary, if it is of the ledger's last attempt and all files are there.

    A sentence: why it cannot be compared. None: there is nothing to compare, since the run goes on
    or began with a checkpoint of another folder, where the rest of its ledger is.
    """
    path = RunFolder(run).summary
    if ledger.attempts[0].resumed_step > 0 or not path.exists():
        return None
    try:
        summary = Summary.read(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})."
    except ValueError as error:
        return str(error)
    latest = ledger.attempts[-1].incarnation
    if summary.incarnation == 0:
        return f"{path} is of a version that does not say which attempt wrote it."
    if summary.incarnation > latest:
        return f"{path} is of attempt {summary.incarnation}, of which the ledger has no file."
    if summary.incarnation < latest:
        return None
    return "files of the ledger are missing." if totals.missing_files else summary


def disagreements(ledger: Ledger, totals: LedgerTotals, run: Path) -> Iterator[str]:
    """Where the run's summary counts otherwise, if it can be compared."""
    summary = summary_to_compare(ledger, totals, run)
    if not isinstance(summary, Summary):
        return
    lost = int(summary.ledger.get("groups_lost", 0))
    if totals.groups + lost != summary.groups_trained:
        yield (
            f"summary.json counts {summary.groups_trained} groups trained, the ledger has "
            f"{totals.groups} and {lost} were lost"
        )
    elif not lost and totals.uses != summary.group_uses:
        yield f"summary.json counts {summary.group_uses} uses, the ledger {totals.uses}"


def _lines(ledger: Ledger, totals: LedgerTotals) -> Iterator[str]:
    yield f"ledger of run {ledger.attempts[0].files[0].header.run_id} in {ledger.folder}"
    for attempt in totals.attempts:
        yield f"  {_attempt_line(attempt)}"
    yield (
        f"  trained on   {totals.groups} groups, {totals.uses} uses (at most "
        f"{totals.most_uses} of one), {totals.captions} captions"
        + (f"; {totals.open_uses} groups with uses not counted yet" if totals.open_uses else "")
    )
    yield f"  thrown away  {totals.thrown_away} groups, with the training after a checkpoint"
    yield f"  on disk      {totals.num_bytes} bytes, {totals.bytes_per_group:.1f} a group"
    yield f"  seed keys    {totals.duplicates} occur twice"
    if totals.repeated_noise > totals.duplicates:
        yield f"  replayed     {totals.repeated_noise} groups repeat the noise of another one"
    if totals.missing:
        yield f"  missing      {totals.missing} groups: lost on a full disk, or damaged since"
    for path, damage in totals.damages:
        where = "the end is not a whole block" if damage.is_tail else "a block is damaged"
        yield f"  left out     {path.name}: {where}, {damage.num_bytes} bytes at {damage.offset}"
    for path in ledger.unreadable:
        yield f"  left out     {path.name}: its first block is not whole"


def _attempt_line(totals: AttemptTotals) -> str:
    attempt = totals.attempt
    kept = "" if attempt.kept_until is None else f", kept to step {attempt.kept_until}"
    return (
        f"attempt {attempt.incarnation}: {len(attempt.files)} trainers, steps "
        f"{attempt.resumed_step} to {totals.last_step}{kept}; {totals.groups} groups kept, "
        f"{totals.thrown_away} thrown away"
    )


def _figures(totals: LedgerTotals) -> dict[str, float]:
    return {
        "attempts": len(totals.attempts),
        "groups": totals.groups,
        "uses": totals.uses,
        "most_uses": totals.most_uses,
        "groups_with_open_uses": totals.open_uses,
        "captions": totals.captions,
        "thrown_away": totals.thrown_away,
        "missing": totals.missing,
        "bytes": totals.num_bytes,
        "bytes_per_group": round(totals.bytes_per_group, 1),
        "duplicates": totals.duplicates,
        "repeated_noise": totals.repeated_noise,
        "damaged_blocks": len(totals.damages),
    }
