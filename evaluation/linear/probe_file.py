"""A probe on disk: a killed one goes on from it, and one that is done is not trained again.

    CACHE/linear/<key>.safetensors     weight_HCD, bias_HC, norm.mean_D, norm.variance_D and more

The key is over all that the outcome depends on. Only the first rank reads and writes.
"""

import json
import os
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from evaluation.bench import Bench
from evaluation.linear.probe import Probe
from evaluation.linear.ranks import broadcast_from_first
from online_synclr.disk import sync_folder

FORMAT = 1
"""Raised when what is written here, or what training does, changes."""


def probe_key(**parts: object) -> str:
    """Hex digest of everything that determines a probe; plain JSON values."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


class ProbeFile:
    """every_s: between two savings; the last epoch is always saved. 0: each epoch is."""

    def __init__(self, key: str, bench: Bench, *, every_s: float) -> None:
        cache_dir = bench.cache_dir
        self._path = None if cache_dir is None else cache_dir / "linear" / f"{key}.safetensors"
        self._bench = bench
        self._every_s = every_s
        self._saved_s = time.monotonic()

    def load(self, probe: Probe) -> None:
        """Go on from what is there, if anything is; the same on every rank. Waits for all."""
        epochs_1 = torch.zeros(1, dtype=torch.int64, device=self._bench.device)
        if self._bench.is_first and self._path is not None and self._path.exists():
            epochs_1.fill_(self._read(self._path, probe))
        broadcast_from_first(epochs_1, self._bench)
        if not epochs_1:
            return
        for tensor in probe.tensors().values():
            broadcast_from_first(tensor, self._bench)
        probe.epochs = int(epochs_1)

    def save(self, probe: Probe, *, last: bool) -> None:
        """Write it, if it is time. A disk that is full costs the file, not the probe."""
        if self._path is None or not self._bench.is_first:
            return
        if not last and time.monotonic() - self._saved_s < self._every_s:
            return
        try:
            _write(self._path, probe)
        except OSError as error:
            self._bench.say(f"linear probe: not saved to {self._path} ({error.strerror})")
        self._saved_s = time.monotonic()

    def _read(self, path: Path, probe: Probe) -> int:
        """Epochs done; 0 where the file is damaged, which leaves the probe as it was."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = file.metadata() or {}
            if about.get("digest") != _digest(tensors):
                raise ValueError("its checksum is another")
            epochs = int(about["epochs"])
            probe.restore(tensors, epochs)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            self._bench.say(f"linear probe: {path} cannot be used ({error}); training starts anew")
            return 0
        self._bench.say(f"linear probe: goes on after epoch {epochs}, from {path}")
        return epochs


def _write(path: Path, probe: Probe) -> None:
    """Whole or not at all."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in probe.tensors().items()}
    about = {"epochs": str(probe.epochs), "digest": _digest(tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(save(tensors, about))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
