"""The engine's main loop: captions -> renderer -> quality gate -> sender.

It waits for captions (the captioner thread brings them) and for room at the sender (trainers make
it by asking for groups). A stop request and END end both waits; so does the end of a ledger, once
all is sent.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from generators.barren import BarrenWatch
from generators.counters import Counters
from generators.images.quality_gate import GateReason, QualityGate
from generators.images.renderer import Renderer
from online_synclr.stream.group import Group, Recipe

_TICK_S = 0.25
_BARREN_BATCHES = 4
_BARREN_GROUPS = 32


T = TypeVar("T")


class CaptionSource(Protocol[T]):
    """Where captions come from, in whatever form their recipes are made from."""

    def take(self, most: int, timeout_s: float) -> list[T]:
        """Up to `most`; none if none came in time."""

    @property
    def used_up(self) -> bool:
        """Whether none will ever come again."""


class GroupTaker(Protocol):
    """Where groups go to."""

    def put(self, group: Group, timeout_s: float) -> bool:
        """Hand a group over; False: the time was up, or nothing is taken any more."""

    def wait_sent(self, timeout_s: float) -> bool:
        """Whether all that was handed over is on its way; waits for that up to `timeout_s`."""


class RenderLoop(Generic[T]):
    """Renders until `stopping`; then delivers what it holds for at most `drain_s`."""

    def __init__(
        self,
        *,
        captions: CaptionSource[T],
        renderer: Renderer,
        sender: GroupTaker,
        recipe_of: Callable[[T], Recipe],
        batch_groups: int,
        gate: QualityGate,
        drain_s: float,
        counters: Counters,
        stopping: Callable[[], bool],
        ended: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._captions = captions
        self._renderer = renderer
        self._sender = sender
        self._recipe_of = recipe_of
        self._batch_groups = batch_groups
        self._gate = gate
        self._drain_s = drain_s
        self._counters = counters
        self._stopping = stopping
        self._ended = ended
        self._clock = clock
        self._drain_until_s: float | None = None
        self._barren = BarrenWatch("groups", least=_BARREN_GROUPS, batches=_BARREN_BATCHES)

    def run(self) -> None:
        """Work until asked to stop, or until the captions are used up and their groups sent.

        Raises:
            GeneratorError: the gate has refused every group for a while.
        """
        while not self._stopping():
            with self._counters.timed("wait_s/captions"):
                captioned = self._captions.take(self._batch_groups, _TICK_S)
            if captioned:
                for group in self._render([self._recipe_of(one) for one in captioned]):
                    self._deliver(group)
            elif self._captions.used_up and self._sender.wait_sent(_TICK_S):
                return

    def _render(self, recipes: list[Recipe]) -> list[Group]:
        """The groups that passed the gate. All are judged before one waits for its credit."""
        with self._counters.timed("busy_s/render"):
            rendered = self._renderer.render(recipes)
        reasons = [self._gate.reason(one) for one in rendered]
        self._count(recipes, reasons)
        self._barren.batch_done(reasons)
        return [one.group for one, reason in zip(rendered, reasons, strict=True) if reason is None]

    def _count(self, recipes: list[Recipe], reasons: list[GateReason | None]) -> None:
        gated = Counter(f"gated/{reason}" for reason in reasons if reason is not None)
        # In one go: whoever reads them sees no group that was rendered and not judged.
        self._counters.add_all(
            {
                "groups_rendered": len(recipes),
                "images_rendered": sum(recipe.num_images for recipe in recipes),
                "groups_gated": gated.total(),
                **gated,
            }
        )

    def _deliver(self, group: Group) -> None:
        while not self._sender.put(group, _TICK_S):
            if self._ended() or self._drained():
                self._counters.add("groups_abandoned")
                return

    def _drained(self) -> bool:
        """Whether a stop was asked for and the time to deliver after it is over."""
        if not self._stopping():
            return False
        if self._drain_until_s is None:
            self._drain_until_s = self._clock() + self._drain_s
        return self._clock() >= self._drain_until_s
