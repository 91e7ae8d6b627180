"""The engine's main loop with fakes: what becomes of every rendered group, and how it ends."""

from collections.abc import Sequence

import numpy as np
import pytest

from generators.captioner import Captioned
from generators.concepts import Concept, Draw
from generators.counters import Counters
from generators.errors import GeneratorError
from generators.images.quality_gate import QualityGate
from generators.images.renderer import Finished, Rendered, Rendering
from generators.render_loop import RenderLoop
from online_synclr.stream.group import Group, Recipe
from tests.stream_helpers import make_recipe

CONCEPT = Concept("red fox", "animals", "object", "animal")
DRAW = Draw(CONCEPT, "concept", None, None, (0, 1, 2))


class Captions:
    """Gives `count` captions, then nothing."""

    def __init__(self, count: int) -> None:
        self.left = [Captioned(DRAW, f"caption {counter}", counter) for counter in range(count)]

    @property
    def used_up(self) -> bool:
        return not self.left

    def take(self, most: int, timeout_s: float, *, least: int = 1) -> list[Captioned]:
        taken, self.left = self.left[:most], self.left[most:]
        return taken


class Renderer:
    """Renders noise; every third group is blank."""

    fingerprint = "fake"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        self.batches.append(len(recipes))
        return [Rendered(Group(recipe, picture(recipe.counter)), True) for recipe in recipes]

    def submit(self, recipes: Sequence[Recipe]) -> Rendering:
        return Finished(self.render(recipes))

    def close(self) -> None:
        pass


class Blank(Renderer):
    """Renders blank groups only."""

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        return [Rendered(Group(recipe, picture(2)), True) for recipe in recipes]


class Device(Renderer):
    """Renders beside its caller; says what happened in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.finished: set[int] = set()

    def submit(self, recipes: Sequence[Recipe]) -> Rendering:
        self.events.append(f"submit {len(self.batches)} of {len(recipes)}")
        return DeviceBatch(self, len(self.batches), self.render(recipes))


class DeviceBatch:
    def __init__(self, device: Device, number: int, rendered: list[Rendered]) -> None:
        self._device, self._number, self._rendered = device, number, rendered

    def done(self) -> bool:
        return self._number in self._device.finished

    def result(self) -> list[Rendered]:
        self._device.events.append(f"result {self._number}")
        return self._rendered


def picture(counter: int) -> np.ndarray:
    rng = np.random.default_rng(counter)
    images = rng.integers(0, 255, (2, 3, 8, 8)).astype(np.uint8)
    return images * np.uint8(counter % 3 != 2)


class Bench:
    """A loop over some captions; the sender takes `room` groups."""

    def __init__(self, room: int, captions: int = 6, renderer: Renderer | None = None) -> None:
        self.now_s = 0.0
        self.room = room
        self.waits_left = 3
        self.taken: list[int] = []
        self.stop = False
        self.ended = False
        self.counters = Counters()
        self.captions = Captions(captions)
        self.renderer = renderer or Renderer()
        self.loop = RenderLoop(
            captions=self.captions,
            renderer=self.renderer,
            sender=self,
            recipe_of=lambda one: make_recipe(one.counter),
            batch_groups=4,
            gate=QualityGate((2, 3, 8, 8), min_contrast=2.0),
            drain_s=5.0,
            counters=self.counters,
            stopping=lambda: self.stop or self.ended,
            ended=lambda: self.ended,
            clock=lambda: self.now_s,
        )

    def wait_sent(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        self.waits_left -= 1
        return self.waits_left <= 0

    def put(self, group: Group, timeout_s: float) -> bool:
        if isinstance(self.renderer, Device):
            self.renderer.events.append(f"put {group.recipe.counter}")
        if len(self.taken) < self.room:
            self.taken.append(group.recipe.counter)
            return True
        self.now_s += timeout_s
        self.stop = True
        return False

    def values(self) -> dict[str, float]:
        return self.counters.snapshot()


def test_blank_groups_are_gated_and_all_are_accounted_for() -> None:
    bench = Bench(room=100)
    bench.loop.run()
    values = bench.values()
    assert bench.renderer.batches == [4, 2]
    assert bench.taken == [0, 1, 3, 4]
    assert values["groups_rendered"] == 6
    assert values["images_rendered"] == 12
    assert values["groups_gated"] == values["gated/low_contrast"] == 2


def test_an_engine_whose_every_group_is_refused_ends_with_an_error() -> None:
    bench = Bench(room=100, captions=1000, renderer=Blank())
    with pytest.raises(GeneratorError, match=r"last 32 groups .*'low_contrast'.*images\.model"):
        bench.loop.run()
    assert bench.taken == []
    assert bench.values()["groups_gated"] == bench.values()["groups_rendered"] == 32


def test_a_refused_batch_among_good_ones_is_no_error() -> None:
    bench = Bench(room=1000, captions=900)
    bench.loop.run()
    assert len(bench.taken) == 600


def test_a_source_that_is_used_up_ends_the_loop_once_all_is_sent() -> None:
    bench = Bench(room=100)
    bench.loop.run()
    assert bench.taken == [0, 1, 3, 4]
    assert bench.waits_left == 0
    assert not bench.stop


def test_what_cannot_be_delivered_after_a_stop_is_counted() -> None:
    bench = Bench(room=1)
    bench.loop.run()
    values = bench.values()
    assert bench.taken == [0]
    assert values["groups_abandoned"] == 2
    assert values["groups_rendered"] == 4 == 1 + values["groups_gated"] + 2
    # The time to deliver runs from the stop request, for all groups together.
    assert 5.0 <= bench.now_s < 6.0


def test_end_ends_delivery_at_once_and_the_group_is_counted() -> None:
    bench = Bench(room=0)
    bench.ended = True
    bench.loop._deliver(Group(make_recipe(0), picture(0)))
    assert bench.now_s < 1.0
    assert bench.values()["groups_abandoned"] == 1


def test_a_batch_is_judged_and_delivered_while_the_next_one_renders() -> None:
    device = Device()
    bench = Bench(room=100, captions=10, renderer=device)
    bench.loop.run()
    assert device.events == [
        *("submit 0 of 4", "submit 1 of 4", "result 0", "put 0", "put 1", "put 3"),
        *("submit 2 of 2", "result 1", "put 4", "put 6", "put 7"),
        *("result 2", "put 9"),
    ]
    assert bench.values()["groups_rendered"] == 10


def test_what_is_done_already_is_delivered_at_once() -> None:
    device = Device()
    device.finished = {0, 1, 2}
    bench = Bench(room=100, captions=8, renderer=device)
    bench.loop.run()
    assert [event[:6] for event in device.events if event[:3] != "put"] == [
        *("submit", "result", "submit", "result")
    ]


def test_no_part_of_a_batch_is_taken_while_the_device_has_work() -> None:
    asked: list[tuple[float, int]] = []

    class Slow(Captions):
        def take(self, most: int, timeout_s: float, *, least: int = 1) -> list[Captioned]:
            asked.append((timeout_s, least))
            return [] if least > 1 else super().take(min(most, 3), timeout_s)

    device = Device()
    bench = Bench(room=100, renderer=device)
    bench.captions = bench.loop._captions = Slow(6)
    bench.loop.run()
    assert [event for event in device.events if event[:3] != "put"] == [
        *("submit 0 of 3", "result 0", "submit 1 of 3", "result 1")
    ]
    assert asked[:3] == [(0.25, 1), (0.0, 4), (0.25, 1)]


def test_a_stop_delivers_what_the_device_still_renders() -> None:
    device = Device()
    bench = Bench(room=100, captions=1000, renderer=device)
    bench.loop._stopping = lambda: len(device.batches) == 3
    bench.loop.run()
    values = bench.values()
    assert values["groups_rendered"] == 12 == len(bench.taken) + values["groups_gated"]


def test_what_is_under_way_at_end_is_counted() -> None:
    device = Device()
    bench = Bench(room=0, captions=1000, renderer=device)
    bench.loop._stopping = lambda: bench.ended or bench.stop
    submit = device.submit

    def submit_and_end(recipes: Sequence[Recipe]) -> Rendering:
        bench.ended = len(device.batches) == 1
        return submit(recipes)

    device.submit = submit_and_end  # type: ignore[method-assign]
    bench.loop.run()
    values = bench.values()
    assert values["groups_rendered"] == 8
    assert values["groups_abandoned"] == 8 - values["groups_gated"]
