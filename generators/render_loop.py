"""The engine's main loop: captions -> renderer -> quality gate -> sender.

    captions of batch k + 1 -> submit -> (the device renders) -> gate and deliver batch k

It waits for captions (the captioner thread brings them), for the device, and for room at the sender
(trainers make it by asking for groups). A stop request and END end all but the second; so does the
end of a ledger, once all is sent. While one batch is judged and delivered the next one renders, so
that a GPU always has work; a renderer that does its work within `submit` has nothing under way.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from generators.barren import BarrenWatch
from generators.counters import Counters
from generators.images.quality_gate import GateReason, QualityGate
from generators.images.renderer import Renderer, Rendering
from online_synclr.stream.group import Group, Recipe

_TICK_S = 0.25
_BARREN_BATCHES = 4
_BARREN_GROUPS = 32


T = TypeVar("T")


class CaptionSource(Protocol[T]):
    """Where captions come from, in whatever form their recipes are made from."""

    def take(self, most: int, timeout_s: float, *, least: int = 1) -> list[T]:
        """Between `least` and `most`; none if so many did not come in time.

        Fewer than `least` are all that there will ever be.
        """

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
        self._under_way: deque[tuple[list[Recipe], Rendering]] = deque()
        self._drain_until_s: float | None = None
        self._barren = BarrenWatch("groups", least=_BARREN_GROUPS, batches=_BARREN_BATCHES)

    def run(self) -> None:
        """Work until asked to stop, or until the captions are used up and their groups sent.

        Raises:
            GeneratorError: the gate has refused every group for a while.
        """
        while not self._stopping():
            recipes = [self._recipe_of(one) for one in self._take()]
            if recipes:
                with self._counters.timed("busy_s/render"):
                    self._under_way.append((recipes, self._renderer.submit(recipes)))
                self._finish(leave=1)
            elif self._under_way:
                self._finish(leave=0)
            elif self._captions.used_up and self._sender.wait_sent(_TICK_S):
                return
        self._finish(leave=0)

    def _take(self) -> list[T]:
        if self._under_way:
            # The device has work: a batch that is not full would waste some of the next.
            return self._captions.take(self._batch_groups, 0.0, least=self._batch_groups)
        with self._counters.timed("wait_s/captions"):
            return self._captions.take(self._batch_groups, _TICK_S)

    def _finish(self, *, leave: int) -> None:
        """Deliver the batches that are done, and wait for those beyond `leave`."""
        while self._under_way and (len(self._under_way) > leave or self._under_way[0][1].done()):
            recipes, rendering = self._under_way.popleft()
            for group in self._judged(recipes, rendering):
                self._deliver(group)

    def _judged(self, recipes: list[Recipe], rendering: Rendering) -> list[Group]:
        """The groups that passed the gate. All are judged before one waits for its credit."""
        with self._counters.timed("busy_s/render"):
            rendered = rendering.result()
        with self._counters.timed("busy_s/gate"):
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
