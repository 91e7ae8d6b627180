"""A training that was killed goes on: the heads are kept in the cache folder from time to time.

Only the first rank writes and reads; the others are sent what it read. Heads of another backbone,
data set or recipe have another name.
"""

import os
import time
from collections.abc import Callable
from io import BytesIO

import torch

from evaluation.bench import Bench
from evaluation.segmentation.training import HeadTraining
from trainer.collectives import broadcast_bytes

SAVE_EVERY_S = 60.0
FOLDER = "segmentation"


class KeptHeads:
    """The file of one training. key: a digest of all that its outcome depends on."""

    def __init__(self, key: str, bench: Bench, clock: Callable[[], float] = time.monotonic) -> None:
        self._bench = bench
        self._path = bench.cache_dir and bench.cache_dir / FOLDER / f"{key}.pt"
        self._clock = clock
        self._saved_s = clock()

    def resume(self, training: HeadTraining) -> None:
        """Take up what is kept, if anything can be read. Every rank calls it."""
        own = self._read() if self._bench.is_first else None
        data = broadcast_bytes(own, self._bench.group)
        if not data:
            return
        state = torch.load(BytesIO(data), map_location=self._bench.device, weights_only=True)
        training.load(state)
        self._bench.say(f"goes on from step {training.step} of {training.recipe.steps}")

    def save_if_due(self, training: HeadTraining) -> None:
        """Keep the heads if the last time was `SAVE_EVERY_S` ago, or training is over."""
        is_over = training.step == training.recipe.steps
        if is_over or self._clock() - self._saved_s >= SAVE_EVERY_S:
            self._save(training)
            self._saved_s = self._clock()

    def _save(self, training: HeadTraining) -> None:
        if self._path is None or not self._bench.is_first:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(f".{os.getpid()}")
        torch.save(training.state(), beside)
        beside.replace(self._path)

    def _read(self) -> bytes:
        """The file, if torch can read it; a damaged one is as good as none."""
        if self._path is None or not self._path.is_file():
            return b""
        data = self._path.read_bytes()
        try:
            torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except Exception:
            self._bench.say(f"{self._path} is damaged; trains anew")
            return b""
        return data
