"""Which of a run's checkpoints it goes on from, and what becomes of those that cannot be used.

    newest: damaged, unreadable? -> the one before -> ... -> usable: newer ones are set aside
                                                          -> none: all stay, nothing starts

    checkpoints/damaged_step_00001000/  was complete once, or cut off by a copy
    checkpoints/unread_step_00001000/   could not be read when the run went on without it

Training from step 0 is never the answer to a disk that fails: whoever wants it says so with another
run folder.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from online_synclr.config import ConfigError
from trainer import checkpoint_files

DAMAGED: Final = "damaged"
UNREAD: Final = "unread"
_NAMED: Final = 3


def newest_usable(run_dir: Path, say: Callable[[str], None]) -> Path | None:
    """The run's newest checkpoint whose every byte is as it was written; None: it never had any.

    Newer ones are said and set aside: the run now takes its steps anew, and neither pruning nor
    writing may take theirs for its own. What dead attempts left half written is removed.

    Raises:
        ConfigError: there are checkpoints and none can be used, or a newer one cannot be set
            aside.
    """
    folder = run_dir / "checkpoints"
    try:
        checkpoint_files.remove_partial(folder)
        return _search(run_dir, folder, say)
    except OSError as error:
        raise ConfigError(
            f"run.dir={run_dir}: its checkpoints cannot be read or renamed ({error.strerror}); "
            "mend the disk, or name another run.dir to start anew."
        ) from None


def _search(run_dir: Path, folder: Path, say: Callable[[str], None]) -> Path | None:
    faults: dict[Path, tuple[str, str]] = {}
    for path in reversed(checkpoint_files.named_checkpoints(folder)):
        fault = _fault_of(path)
        if fault is None:
            for newer, (kind, reason) in faults.items():
                aside = _set_aside(newer, kind)
                say(f"checkpoint {newer.name} {reason}; it is kept as {aside.name} and not used")
            return path
        faults[path] = fault
    reasons = [f"{path.name} {reason}" for path, (_, reason) in faults.items()]
    reasons += [f"{path.name} was set aside" for path in _aside(folder)]
    if reasons:
        more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise ConfigError(
            f"run.dir={run_dir} has checkpoints and none can be used "
            f"({', '.join(reasons[:_NAMED])}{more}); mend the disk, or name another run.dir to "
            "start anew."
        )
    return None


def _fault_of(path: Path) -> tuple[str, str] | None:
    """Why a checkpoint cannot be used, as the kind of its new name and as words; None: it can."""
    try:
        if not checkpoint_files.is_complete(path):
            return DAMAGED, "is not complete"
        return None if checkpoint_files.is_intact(path) else (DAMAGED, "is damaged")
    except OSError as error:
        return UNREAD, f"cannot be read ({error.strerror})"


def _aside(folder: Path) -> list[Path]:
    names = tuple(f"{kind}_step_" for kind in (DAMAGED, UNREAD))
    return sorted(path for path in checkpoint_files.entries(folder) if path.name.startswith(names))


def _set_aside(path: Path, kind: str) -> Path:
    """Rename it, over nothing that was set aside before."""
    names = (f"{kind}_{path.name}" + (f".{number}" if number else "") for number in count())
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.replace(aside)
