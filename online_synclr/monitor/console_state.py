"""What the console shows, as plain values: a run folder is enough to draw it again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from online_synclr.monitor import metrics
from online_synclr.monitor.formats import percent
from online_synclr.monitor.roles import RunRoles
from online_synclr.planning.advice import RunShape
from online_synclr.run_folder import write_durably


@dataclass(frozen=True, kw_only=True)
class GeneratorLine:
    """One generator as a trainer sees it; counts are cumulative. `connected`: it is here now."""

    generator: str
    state: str
    connected: bool = True
    images: int = 0
    captions: int = 0
    restarts: int = 0
    error: str = ""


@dataclass(frozen=True)
class Event:
    """Something a person must see, and when (seconds since the console began)."""

    elapsed_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class ConsoleState:
    """Everything one view is drawn from. `elapsed_s` counts from the console's beginning."""

    run_dir: str
    roles: RunRoles
    total_steps: int
    max_reuse: float | None = None
    shape: RunShape | None = None
    step: int = 0
    phase: str = "starting"
    elapsed_s: float = 0.0
    scalars: Mapping[str, float] = field(default_factory=dict)
    generators: tuple[GeneratorLine, ...] = ()
    events: tuple[Event, ...] = ()
    knn_first: float | None = None
    knn_last: float | None = None

    def with_scalars(self, new: Mapping[str, float]) -> "ConsoleState":
        """With new values; those left out stay, but for curves of single generators.

        These are told of all that are here at once, so that nothing is kept of those that left.
        """
        if not new:
            return self
        kept = self.scalars
        if any(map(metrics.is_of_generator, new)):
            kept = {name: of for name, of in kept.items() if not metrics.is_of_generator(name)}
        return replace(self, scalars={**kept, **new})

    def save(self, path: Path) -> None:
        """Write the state, to be drawn again later (`recipes/screenshots`).

        Raises:
            OSError: it cannot be written.
        """
        finite = {name: value for name, value in self.scalars.items() if math.isfinite(value)}
        write_durably(path, msgspec.json.encode(replace(self, scalars=finite)).decode())

    @classmethod
    def load(cls, path: Path) -> "ConsoleState":
        """Read what `save` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    @property
    def training(self) -> bool:
        """Whether a step has been logged, so that rates and waits mean something."""
        return metrics.LOSS_TOTAL in self.scalars

    @property
    def left_s(self) -> float | None:
        """Seconds to the last step at the recent pace; None while there is no pace."""
        steps_per_s = self.scalars.get(metrics.TRAINER_STEPS, 0.0)
        return (self.total_steps - self.step) / steps_per_s if steps_per_s > 0 else None

    @property
    def knn(self) -> str:
        """kNN accuracy at first and now, or an empty string."""
        if self.knn_last is None:
            return ""
        if self.knn_first is None or self.knn_first == self.knn_last:
            return percent(self.knn_last, 1)
        return f"{percent(self.knn_first, 1)} → {percent(self.knn_last, 1)}"
