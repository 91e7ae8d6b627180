"""Backbones through one task: the work of `python -m online_synclr evaluate`.

    for each backbone: load; for each data set: run the task, keep the results

Results are written as soon as they are there, and a backbone that fails costs the others nothing.
"""

import argparse
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.load import load_backbone
from evaluation.ranks import Ranks, RanksApartError, joined
from evaluation.report.folder import ReportFolder
from evaluation.report.records import Record, merged, record_of
from evaluation.report.table import markdown
from evaluation.results import Result
from evaluation.task import Task
from online_synclr import __version__
from online_synclr.config import ConfigError
from online_synclr.topology import RankEnv

EXIT_WRONG_INPUT = 2
EXIT_FAILED = 1


def evaluate(task: Task, options: argparse.Namespace, env: RankEnv, command: str) -> int:
    """Judge all backbones on all data sets; returns the exit code, 0 if nothing failed.

    Raises:
        ConfigError: --out or --device cannot be used.
    """
    folder = ReportFolder(Path(options.out)) if options.out and env.rank == 0 else None
    with joined(options, env) as (bench, ranks):
        evaluation = Evaluation(task, options, bench, ranks, folder, command)
        try:
            evaluation.run()
        except RanksApartError:
            # Said already; the others are ended by torchrun.
            return EXIT_FAILED
        finally:
            evaluation.close()
        # torchrun ends all ranks when one has failed: none leaves before the first has closed.
        ranks.agree("")
    return evaluation.exit_code


class Evaluation:
    """One call of the command, on one rank."""

    def __init__(
        self,
        task: Task,
        options: argparse.Namespace,
        bench: Bench,
        ranks: Ranks,
        folder: ReportFolder | None,
        command: str,
    ) -> None:
        self._task = task
        self._options = options
        self._bench = bench
        self._ranks = ranks
        self._folder = folder
        self._command = command
        self._records: list[Record] = []
        self.exit_code = 0

    def run(self) -> None:
        """Every backbone on every data set. Waits for the other ranks after each.

        Raises:
            RanksApartError: only this rank failed.
        """
        for name in dict.fromkeys(self._options.backbones):
            for backbone, data in self._pairs(name):
                self._judge(backbone, data)

    def close(self) -> None:
        """Print the table of this call, and draw the plot of all that the folder holds."""
        if not self._bench.is_first or not self._records:
            return
        print(markdown(self._records, mark_best=False), flush=True)
        if self._folder is not None:
            with self._writing(self._folder):
                self._folder.draw()
                self._bench.say(f"results are in {self._folder.root}")

    def _pairs(self, name: str) -> Iterator[tuple[FrozenBackbone, str | None]]:
        backbone = self._loaded(name)
        if backbone is not None:
            for data in dict.fromkeys(self._options.data or [None]):
                yield backbone, data

    def _loaded(self, name: str) -> FrozenBackbone | None:
        backbone, failure = None, ""
        try:
            backbone = load_backbone(name, image_px=self._options.image_px)
            backbone.model.to(self._bench.device)
        except Exception as error:
            failure = self._failed(name, error)
        return None if self._failed_anywhere(failure) else backbone

    def _judge(self, backbone: FrozenBackbone, data: str | None) -> None:
        options = argparse.Namespace(**{**vars(self._options), "data": data})
        results: Sequence[Result] = ()
        failure, started_s = "", time.monotonic()
        torch.manual_seed(self._bench.seed)
        try:
            results = self._task.run(backbone, options, self._bench)
        except Exception as error:
            failure = self._failed(backbone.name, error)
        if self._failed_anywhere(failure):
            return
        facts = self._facts(backbone, time.monotonic() - started_s)
        new = [record_of(result, facts) for result in results]
        self._records = merged(self._records, new)
        if self._folder is not None:
            with self._writing(self._folder):
                self._folder.add(new)

    def _failed(self, name: str, error: Exception) -> str:
        """Say what went wrong, on whichever rank it did, and return it."""
        sentence = _sentence(error)
        if name not in sentence:
            sentence = f"{name}: {sentence}"
        known = isinstance(error, ConfigError | torch.OutOfMemoryError)
        self.exit_code = max(self.exit_code, EXIT_WRONG_INPUT if known else EXIT_FAILED)
        if not known:
            traceback.print_exception(error)
        if self._bench.is_first or not known:
            print(f"online_synclr: {sentence}", file=sys.stderr, flush=True)
        return sentence

    def _failed_anywhere(self, failure: str) -> bool:
        agreed = self._ranks.agree(failure)
        if agreed and not failure:
            self.exit_code = max(self.exit_code, EXIT_FAILED)
            self._bench.say(f"another rank failed: {agreed}")
        return bool(agreed)

    @contextmanager
    def _writing(self, folder: ReportFolder) -> Iterator[None]:
        """A disk that is full takes no result from the console."""
        try:
            yield
        except (OSError, ConfigError) as error:
            self.exit_code = max(self.exit_code, EXIT_FAILED)
            self._bench.say(f"results cannot be written to {folder.root} ({error})")

    def _facts(self, backbone: FrozenBackbone, took_s: float) -> dict[str, Any]:
        device = self._bench.device
        on_gpu = device.type == "cuda"
        return {
            "origin": backbone.origin,
            "identity": backbone.identity,
            "image_px": backbone.image_px,
            "crop_pct": self._bench.crop_pct,
            "precision": self._bench.precision,
            "seed": self._bench.seed,
            "versions": versions(),
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "num_ranks": self._bench.num_ranks,
            "took_s": round(took_s, 1),
            "command": self._command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def versions() -> dict[str, str]:
    """Of what figures may depend on."""
    return {
        "online_synclr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def _sentence(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; lower --batch-images."
    if isinstance(error, ConfigError):
        return str(error)
    return f"{type(error).__name__}: {error}"
