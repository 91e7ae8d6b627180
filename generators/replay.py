"""Renders groups of a ledger again, for people to look at."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from generators.images.factory import create_renderer
from generators.images.renderer import Renderer
from online_synclr.ledger.facts import LedgerError, UseCount
from online_synclr.ledger.reading import Entry, kept_entries, read_ledger, use_counts
from online_synclr.stream.group import Group, Recipe


class Replay:
    """Renders groups by their numbers in a run's ledger, with the settings of their attempts.

    Args:
        run: run folder, or the ledger's own.
        out: where files go; made if need be.
        batch_groups: groups of one call of the renderer; None: as in the run.
        each_image: a file for each image, instead of one for each group.
        device: "auto", "cpu" or "cuda".
        say: takes a line for people.

    Raises:
        LedgerError: there is no ledger.
    """

    def __init__(
        self,
        run: Path,
        out: Path,
        *,
        batch_groups: int | None = None,
        each_image: bool = False,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> None:
        self._ledger = read_ledger(run)
        self._out = out
        self._batch_groups = batch_groups
        self._each_image = each_image
        self._device = _device(device)
        self._say = say
        self._others: set[tuple[str, str]] = set()

    def render(self, first: int, end: int) -> int:
        """Render groups `first` to `end` - 1; returns the exit code, 0.

        Raises:
            LedgerError: the ledger has none of them.
            SetupError: the image model cannot be loaded.
            OSError: a file cannot be written.
        """
        entries = list(islice(kept_entries(self._ledger.attempts), first, end))
        if not entries:
            raise LedgerError(f"the ledger has no group {first}; `ledger RUN` says how many it has")
        counts = use_counts(entries)
        self._out.mkdir(parents=True, exist_ok=True)
        for settings, of_attempts in _by_images_settings(entries):
            config = of_attempts[0].file.header.images_settings()
            renderer = create_renderer(config, device=self._device, say=self._say)
            batch_groups = self._batch_groups or config.batch_groups
            self._say(f"{len(of_attempts)} groups, {batch_groups} at a time (images {settings})")
            for entry, group in _rendered(renderer, of_attempts, batch_groups):
                self._write(entry, group, counts.get(entry.number), renderer.fingerprint)
            renderer.close()
        self._say(f"groups {entries[0].number} to {entries[-1].number} are in {self._out}")
        return 0

    def _write(self, entry: Entry, group: Group, count: UseCount | None, local: str) -> None:
        name = f"group_{entry.number:09d}"
        if self._each_image:
            for index, image_chw in enumerate(group.images_mchw):
                _save_png(self._out / f"{name}_{index}.png", image_chw[None])
        else:
            _save_png(self._out / f"{name}.png", group.images_mchw)
        text = json.dumps(_record(entry, count, local), indent=1, ensure_ascii=False)
        (self._out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        self._say_if_another_model(entry.fact.recipe.image_fingerprint, local)

    def _say_if_another_model(self, recorded: str, local: str) -> None:
        if recorded == local or (recorded, local) in self._others:
            return
        self._others.add((recorded, local))
        self._say(
            f"NOT THE SAME PICTURES: the run rendered with {recorded}, this is {local} (another "
            "model, precision or diffusers setting); noise and captions are the same"
        )


def padded_batches(recipes: Sequence[Recipe], size: int) -> Iterator[list[Recipe]]:
    """`recipes` in batches that all have `size`: the last one repeats its last recipe.

    So a group's pixels do not depend on how many are rendered again.
    """
    for start in range(0, len(recipes), size):
        batch = list(recipes[start : start + size])
        yield batch + batch[-1:] * (size - len(batch))


def _rendered(
    renderer: Renderer, entries: Sequence[Entry], batch_groups: int
) -> Iterator[tuple[Entry, Group]]:
    done = 0
    for batch in padded_batches([entry.fact.recipe for entry in entries], batch_groups):
        for entry, rendered in zip(entries[done:], renderer.render(batch), strict=False):
            yield entry, rendered.group
        done += batch_groups


def _by_images_settings(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.file.header.images_fingerprint, []).append(entry)
    return list(found.items())


def _record(entry: Entry, count: UseCount | None, local: str) -> dict[str, Any]:
    """What is known of a group. `uses`: as far as counted; `noise_seeds`: one an image."""
    fact, header = entry.fact, entry.file.header
    return {
        "number": entry.number,
        "run_id": header.run_id,
        "attempt": header.incarnation,
        "trainer": header.trainer,
        "step": fact.step,
        "time_s": fact.time_s,
        "uses": None if count is None else count.uses,
        "recipe": msgspec.to_builtins(fact.recipe),
        "noise_seeds": fact.recipe.noise_seeds(),
        "rendered_by": local,
        "same_model": fact.recipe.image_fingerprint == local,
    }


def _save_png(path: Path, images_mchw: np.ndarray) -> None:
    """Images side by side, pixel for pixel; the file is complete or not there."""
    row_hwc = np.concatenate(list(images_mchw.transpose(0, 2, 3, 1)), axis=1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(row_hwc).save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
