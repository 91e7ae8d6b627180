"""Groups, greetings and a sink for the tests of the stream. Nothing here opens a socket."""

import threading
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from online_synclr.stream.group import Group, Origin, Recipe
from online_synclr.stream.messages import Hello

SHAPE = (2, 3, 8, 8)
RUN_ID = "run-1"


def make_recipe(counter: int = 0, *, images: int = SHAPE[0], stream: int = 1) -> Recipe:
    """A recipe that differs from all others by its counter."""
    return Recipe(
        caption=f"a red fox number {counter}",
        concept="red fox",
        source="paper",
        template="plain",
        background="",
        relation="",
        run_seed=7,
        incarnation=1,
        stream=stream,
        counter=counter,
        num_images=images,
        llm_fingerprint="llm",
        image_fingerprint="image",
    )


def with_origin(recipe: Recipe | None = None, **numbers: int) -> Recipe:
    """A recipe that repeats another rendering, whose numbers are these."""
    known = {"run_seed": 3, "incarnation": 2, "stream": 1, "counter": 4}
    origin = Origin(**{**known, **numbers})
    return msgspec.structs.replace(recipe or make_recipe(), origin=origin)


def images_of(counter: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The pixels that belong to that counter, and to no other."""
    return np.random.default_rng(counter).integers(0, 256, shape, dtype=np.uint8)


def make_group(
    counter: int = 0, shape: tuple[int, int, int, int] = SHAPE, *, stream: int = 1
) -> Group:
    """The group with that counter; `images_of` tells what its pixels must be."""
    recipe = make_recipe(counter, images=shape[0], stream=stream)
    return Group(recipe, images_of(counter, shape))


def make_hello(
    generator_id: str = "g0",
    *,
    role: str = "engine",
    stream: int = 1,
    run_id: str = RUN_ID,
    shape: tuple[int, int, int, int] = SHAPE,
) -> Hello:
    """A greeting of one engine, or of its supervisor."""
    return Hello(
        run_id=run_id,
        generator_id=generator_id,
        role=role,  # type: ignore[arg-type]
        incarnation=1,
        stream=stream,
        image_shape=shape,
    )


class FakeSink:
    """A sink with `room` groups left; keeps what it is given. `arrived(n)` waits for n groups."""

    def __init__(self, room: int = 10**6) -> None:
        self.groups: list[Group] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.reclaimed = 0
        self._room = room
        self._wake: Callable[[], None] = lambda: None
        self._changed = threading.Condition()

    def credits_to_issue(self, in_flight: int) -> int:
        with self._changed:
            self.in_flight = in_flight
            self.most_in_flight = max(self.most_in_flight, in_flight)
            self._changed.notify_all()
            return max(0, self._room - in_flight)

    def place(self, shape: Sequence[int]) -> np.ndarray:
        return np.empty(tuple(shape), np.uint8)

    def insert(self, group: Group) -> None:
        with self._changed:
            self.groups.append(group)
            self.in_flight -= 1
            self._room -= 1
            self._changed.notify_all()

    def reclaim(self, num_credits: int) -> None:
        with self._changed:
            self.in_flight -= num_credits
            self.reclaimed += num_credits
            self._changed.notify_all()

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def make_room(self, num_groups: int) -> None:
        """As the training loop does by sampling."""
        with self._changed:
            self._room += num_groups
        self._wake()

    def wait_for(self, reached: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        """Wait until `reached` holds; looked at whenever the receiver has done something."""
        with self._changed:
            return self._changed.wait_for(reached, timeout_s)

    def arrived(self, num_groups: int) -> bool:
        return self.wait_for(lambda: len(self.groups) >= num_groups)
