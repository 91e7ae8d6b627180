"""Captions and noise from another run's ledger, instead of a language model.

    ledger, in the order of first training -> not yet trained on -> every n-th -> not yet taken

Generators share the groups by their position: generator i of n takes groups i, i + n, ... of those
that this run's own ledger does not have yet. So a run that is continued goes on where its kept
training stopped, with any number of generators. Within an attempt what an engine has taken is
noted on disk before it is rendered: an engine that is killed loses what it held (it comes again
when the run is continued), and nothing is rendered twice.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from generators.counters import Counters
from generators.errors import SetupError
from generators.spec import EngineSpec
from online_synclr.ledger.facts import FOLDER_NAME, LedgerError, file_name
from online_synclr.ledger.reading import Ledger, kept_entries, open_file, read_ledger
from online_synclr.ledger.seed_keys import SeedKeys
from online_synclr.stream.group import Origin, Recipe
from online_synclr.stream.peers import LEDGER_USED_UP

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A group of the ledger, and its number in this engine's own count."""

    recipe: Recipe
    counter: int


class LedgerCaptions:
    """One generator's part of a ledger, from where its earlier starts left off; never waits.

    Args:
        recipes: the generator's part, from its beginning.
        taken: how many of it are taken; outlives the engine.
    """

    def __init__(self, recipes: Iterator[Recipe], taken: "Taken", counters: Counters) -> None:
        self._recipes = islice(recipes, taken.count, None)
        self._taken = taken
        self._counters = counters
        self._counter = 0
        self._used_up = False

    def take(self, most: int, timeout_s: float, *, least: int = 1) -> list[Recorded]:
        """The next `most` groups, or those that are left."""
        recipes = list(islice(self._recipes, most))
        if not recipes and not self._used_up:
            self._used_up = True
            self._counters.set(LEDGER_USED_UP, 1.0)
        self._taken.add(len(recipes))
        self._counters.add("captions_accepted", len(recipes))
        first, self._counter = self._counter, self._counter + len(recipes)
        return [Recorded(recipe, first + index) for index, recipe in enumerate(recipes)]

    @property
    def used_up(self) -> bool:
        """Whether `take` has come to the end."""
        return self._used_up


class Taken:
    """A count in a small file, that a killed process leaves behind as it was last set."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.count = int(os.pread(self._descriptor, 32, 0) or b"0")

    def add(self, number: int) -> None:
        """Count `number` more."""
        self.count += number
        # One write of fixed length: whoever reads it sees the old count or the new one.
        os.pwrite(self._descriptor, b"%020d\n" % self.count, 0)


def build_ledger_captions(spec: EngineSpec, counters: Counters) -> LedgerCaptions:
    """The captions of one engine start. Waits for the trainers' own ledger if the run goes on.

    Raises:
        SetupError: the ledger cannot be used, or this run's own cannot be seen.
    """
    role, settings = spec.role, spec.config
    assert settings.captions.ledger is not None
    if role.num_generators is None:
        raise SetupError(
            "captions.backend=ledger shares a ledger among the ranks of the torchrun job; give a "
            "generator that joins on its own a language model"
        )
    try:
        source = read_ledger(settings.captions.ledger)
        trained = trained_on(
            role.run_dir, role.incarnation, patience_s=settings.generators.stall_s / 2
        )
    except LedgerError as error:
        raise SetupError(f"captions.ledger: {error}") from None
    path = role.run_dir / "logs" / f"{role.generator_id}-{role.incarnation}.taken"
    recipes = part_of(source, trained, role.generator_index, role.num_generators)
    return LedgerCaptions(recipes, Taken(path), counters)


def part_of(source: Ledger, trained: SeedKeys, index: int, num_generators: int) -> Iterator[Recipe]:
    """What generator `index` of so many renders: its share of what was not trained on before."""
    recipes = (entry.fact.recipe for entry in kept_entries(source.attempts))
    left = (recipe for recipe in recipes if recipe.noise_key not in trained)
    return islice(left, index, None, num_generators)


def trained_on(
    run_dir: Path,
    incarnation: int,
    *,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SeedKeys:
    """Noise keys of what this run's earlier attempts trained on, as far as that was kept.

    How much was kept stands in this attempt's own ledger, which the trainers begin once they have
    read the checkpoint: it is waited for, except in a run's first attempt.

    Raises:
        LedgerError: the trainers' ledgers cannot be seen from here, or not all of them.
    """
    keys = SeedKeys()
    if incarnation == 1:
        return keys
    begun = run_dir / FOLDER_NAME / file_name(incarnation, 0)
    deadline = clock() + patience_s
    while not (begun.exists() and open_file(begun)):
        if clock() > deadline:
            raise LedgerError(
                f"there is no {begun} after {patience_s:.0f} s; what earlier attempts trained on "
                "is known from there, so run.dir must be on storage that all hosts share"
            )
        sleep(POLL_S)
    attempts = read_ledger(run_dir).attempts
    earlier = [attempt for attempt in attempts if attempt.incarnation < incarnation]
    for attempt in earlier:
        if attempt.missing_files and attempt.keeps(attempt.resumed_step + 1):
            raise LedgerError(
                f"{begun.parent} has no {', '.join(attempt.missing_files)}; what those trainers "
                "trained on is known from there alone, so copy them there or put run.dir on "
                "storage that all hosts share"
            )
    for entry in kept_entries(earlier):
        keys.add(entry.fact.recipe.noise_key)
    return keys


class ReplayedRecipes:
    """Makes the recipes of new renderings; says once if their pictures will be others."""

    def __init__(self, spec: EngineSpec, say: Callable[[str], None]) -> None:
        self._spec = spec
        self._say = say
        self._others: set[str] = set()

    def __call__(self, recorded: Recorded, image_fingerprint: str) -> Recipe:
        """Numbers of this engine, captions and noise of the first rendering."""
        before = recorded.recipe
        if before.image_fingerprint not in self._others | {image_fingerprint}:
            self._others.add(before.image_fingerprint)
            self._say(
                f"the ledger's groups were rendered by {before.image_fingerprint}, this generator "
                f"is {image_fingerprint}: captions and noise are the same, pictures are not"
            )
        run_seed, incarnation, stream, counter = before.noise_key
        return msgspec.structs.replace(
            before,
            run_seed=self._spec.config.run.seed,
            incarnation=self._spec.role.incarnation,
            stream=self._spec.stream,
            counter=recorded.counter,
            num_images=self._spec.config.images.per_caption,
            image_fingerprint=image_fingerprint,
            origin=Origin(
                run_seed=run_seed, incarnation=incarnation, stream=stream, counter=counter
            ),
        )
