"""What a ledger holds in numbers, and whether any seed was used twice. Pure but for the reading."""

from dataclasses import dataclass, field
from pathlib import Path

from online_synclr.caption_identity import caption_id
from online_synclr.ledger.blocks import Damage
from online_synclr.ledger.facts import FirstUse
from online_synclr.ledger.reading import AttemptFiles, Ledger, LedgerFile
from online_synclr.ledger.seed_keys import SeedKeys
from online_synclr.stream.group import SeedKey

EXAMPLES = 5


@dataclass(kw_only=True)
class AttemptTotals:
    """One attempt. `open_uses`: kept groups whose number of uses is not known yet: one or more."""

    attempt: AttemptFiles
    groups: int = 0
    uses: int = 0
    open_uses: int = 0
    thrown_away: int = 0
    last_step: int = 0


@dataclass(kw_only=True)
class LedgerTotals:
    """A whole ledger. Kept groups, uses and captions are what the run trained on.

    `missing`: entries that were never written or can no longer be read. `duplicates`: keys that
    occur twice in any of the files, thrown-away attempts included; `repeated_noise`: kept groups
    whose noise an earlier kept group had (a group that a ledger was asked for twice); `most_uses`:
    of any one kept group.
    """

    attempts: list[AttemptTotals] = field(default_factory=list)
    captions: int = 0
    missing: int = 0
    num_bytes: int = 0
    entries: int = 0
    duplicates: int = 0
    repeated_noise: int = 0
    most_uses: int = 0
    examples: list[SeedKey] = field(default_factory=list)
    damages: list[tuple[Path, Damage]] = field(default_factory=list)

    @property
    def groups(self) -> int:
        """Groups trained on and kept."""
        return sum(attempt.groups for attempt in self.attempts)

    @property
    def uses(self) -> int:
        """Uses of them, as far as known."""
        return sum(attempt.uses for attempt in self.attempts)

    @property
    def open_uses(self) -> int:
        """Groups whose number of uses is not known yet."""
        return sum(attempt.open_uses for attempt in self.attempts)

    @property
    def thrown_away(self) -> int:
        """Groups whose training was thrown away."""
        return sum(attempt.thrown_away for attempt in self.attempts)

    @property
    def missing_files(self) -> list[str]:
        """Names of files that are not here, of attempts that trained.

        An attempt that ended before its first step may have ended before its last file was begun.
        """
        trained = (one.attempt for one in self.attempts if one.groups + one.thrown_away)
        return [name for attempt in trained for name in attempt.missing_files]

    @property
    def bytes_per_group(self) -> float:
        """Bytes on disk for each group entered, thrown-away ones included."""
        return self.num_bytes / self.entries if self.entries else 0.0


def count_ledger(ledger: Ledger) -> LedgerTotals:
    """Read everything once. Memory: a bit or so for each group, 16 bytes for each caption.

    Raises:
        OSError: a file cannot be read.
    """
    counting = _Counting()
    for attempt in ledger.attempts:
        counting.attempt(attempt)
    counting.totals.num_bytes = sum(path.stat().st_size for path in ledger.folder.glob("*.ledger"))
    return counting.totals


class _Counting:
    def __init__(self) -> None:
        self.totals = LedgerTotals()
        self._own_keys = SeedKeys()
        self._noise_keys = SeedKeys()
        self._captions: set[bytes] = set()

    def attempt(self, attempt: AttemptFiles) -> None:
        counted = AttemptTotals(attempt=attempt, last_step=attempt.resumed_step)
        self.totals.attempts.append(counted)
        for file in attempt.files:
            self._file(file, counted)

    def _file(self, file: LedgerFile, counted: AttemptTotals) -> None:
        damages: list[Damage] = []
        known: dict[int, int] = {}
        next_entry = 0
        for fact in file.facts(damages):
            if isinstance(fact, FirstUse):
                self.totals.missing += fact.entry - next_entry
                next_entry = fact.entry + 1
                if self._group(fact, counted):
                    known[fact.entry] = 0
            elif fact.entry in known and counted.attempt.keeps(fact.step):
                counted.uses += fact.uses - known[fact.entry]
                known[fact.entry] = fact.uses
                self.totals.most_uses = max(self.totals.most_uses, fact.uses)
                if fact.left:
                    del known[fact.entry]
        counted.open_uses += sum(uses == 0 for uses in known.values())
        self.totals.damages += [(file.path, damage) for damage in damages]

    def _group(self, fact: FirstUse, counted: AttemptTotals) -> bool:
        """Count a group's first use; whether the run kept it."""
        recipe, totals = fact.recipe, self.totals
        totals.entries += 1
        counted.last_step = max(counted.last_step, fact.step)
        if not self._own_keys.add(recipe.own_key):
            totals.duplicates += 1
            totals.examples = [*totals.examples, recipe.own_key][:EXAMPLES]
        if not counted.attempt.keeps(fact.step):
            counted.thrown_away += 1
            return False
        counted.groups += 1
        totals.repeated_noise += not self._noise_keys.add(recipe.noise_key)
        self._captions.add(caption_id(recipe.caption))
        totals.captions = len(self._captions)
        return True
