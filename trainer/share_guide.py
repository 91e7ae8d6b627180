"""Keeps the shares of the concept sources in force, and tells the generators of each change.

    settings, or share_schedule.yaml (trainer 0 reads it) --gathered with the figures--> all
    trainers: the same changes from the same step on --PROGRESS--> their engines

Each trainer tells the generators that it serves. Nothing here waits, but for `build_share_guide`
at the start of an attempt.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from online_synclr.concept_shares import (
    KEY,
    Shares,
    bank_shares,
    check_changes,
    largest_difference,
    parse_changes,
    shares_at,
)
from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import ShareChange
from online_synclr.stream.messages import Progress
from trainer.collectives import broadcast_bytes
from trainer.distributed import Trainers

TOLD_DIFFERENCE: Final = 0.01
"""While shares move along a line, generators are told whenever one has moved so far."""


class ScheduleFile:
    """A person's changes in the run folder, as last found right; trainer 0 only.

    `text` is empty while there is no file. What is wrong in a file that is edited while the run
    goes on is said once, and what held before goes on to hold.

    Raises:
        ConfigError: the file is wrong at the start.
    """

    def __init__(self, path: Path, bank: Shares, say: Callable[[str], None]) -> None:
        self._path = path
        self._bank = bank
        self._say = say
        self._fault = ""
        self._seen = self._read()
        self.text = self._checked(self._seen)

    def look(self) -> str:
        """`text` as it is now: read again."""
        try:
            seen = self._read()
            if seen == self._seen:
                return self.text
            self._seen = seen
            self.text = self._checked(seen)
        except ConfigError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                self._say(f"{error} The shares stay as they were.")
        else:
            self._fault = ""
            self._say(self._news())
        return self.text

    def _news(self) -> str:
        if not self.text.strip():
            return f"{self._path.name} is gone: {KEY} holds again"
        return f"{self._path.name} has changed: it holds from now on"

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._path} cannot be read ({error}).") from None

    def _checked(self, text: str) -> str:
        check_changes(self._bank, parse_changes(text, str(self._path)), str(self._path))
        return text


class ShareGuide:
    """The shares in force on one trainer; the same on all at the same step.

    Args:
        bank: the shares of the concept bank.
        changes: of the settings.
        announce: tells this trainer's generators.
        file: on trainer 0, the run folder's; None elsewhere.
    """

    def __init__(
        self,
        bank: Shares,
        changes: Sequence[ShareChange],
        announce: Callable[[Progress], None],
        file: ScheduleFile | None = None,
    ) -> None:
        self._bank = bank
        self._of_settings = tuple(changes)
        self._changes = self._of_settings
        self._announce = announce
        self._file = file
        self._text = ""
        self._told: Shares | None = None

    @property
    def sources(self) -> Sequence[str]:
        """Of the concept bank; empty where captions come from elsewhere."""
        return tuple(self._bank)

    def in_force(self, step: int) -> Shares:
        """By source, after `step` steps."""
        return shares_at(self._bank, self._changes, step)

    def look(self) -> str:
        """Trainer 0: what its file holds, for `follow` on every trainer. Elsewhere empty."""
        return "" if self._file is None else self._file.look()

    def start(self, text: str, step: int) -> None:
        """Follow trainer 0's file and tell the generators where the run is, whatever it is."""
        self._take(text)
        self._tell(step)

    def follow(self, text: str, step: int) -> None:
        """Follow trainer 0's file from `step` on; every trainer with the same text."""
        if text != self._text:
            self._take(text)
            self.after_step(step)

    def after_step(self, step: int) -> None:
        """Tell the generators if a share has moved."""
        if not self._changes and self._told is None:
            return
        shares = self.in_force(step)
        told = self._told or self._bank
        settled = shares == self.in_force(step + 1)
        least = 0.0 if settled else TOLD_DIFFERENCE
        if largest_difference(shares, told) > least:
            self._tell(step)

    def _take(self, text: str) -> None:
        self._text = text
        # Checked where it was read.
        of_file = parse_changes(text, "share_schedule.yaml")
        self._changes = of_file if text.strip() else self._of_settings

    def _tell(self, step: int) -> None:
        # Without changes the bank that each generator has decides.
        self._told = self.in_force(step) if self._changes else None
        self._announce(Progress(step=step, shares=self._told or {}))


def may_change(config: Config, schedule_file: Path) -> bool:
    """Whether generators must hear of the shares before they write captions."""
    return bool(config.captions.share_schedule) or schedule_file.exists()


def build_share_guide(
    config: Config,
    trainers: Trainers,
    announce: Callable[[Progress], None],
    *,
    schedule_file: Path,
    say: Callable[[str], None],
    step: int,
) -> ShareGuide:
    """The guide of one trainer of a run that begins, or goes on, after `step` steps.

    Waits for every trainer.

    Raises:
        ConfigError: the run folder's file is wrong (on trainer 0), or the bank cannot be read.
    """
    written = config.captions.backend != "ledger"
    bank = bank_shares(config.captions.bank) if written else {}
    file = ScheduleFile(schedule_file, bank, say) if trainers.is_first and written else None
    guide = ShareGuide(bank, config.captions.share_schedule, announce, file)
    text = file.text.encode() if file is not None else b""
    said = broadcast_bytes(text if trainers.is_first else None, trainers.cpu_group)
    guide.start(said.decode(), step)
    return guide
