"""What a renderer is to the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from generators.errors import GeneratorError
from online_synclr.stream.group import Group, Recipe


@dataclass(frozen=True, slots=True)
class Rendered:
    """A group, and whether every pixel was a finite number before it became uint8."""

    group: Group
    finite: bool


class Rendering(Protocol):
    """A batch under way."""

    def done(self) -> bool:
        """Whether `result` would not wait; waits for nothing itself."""

    def result(self) -> list[Rendered]:
        """The groups, in the order of their recipes; waits for the device until they are there."""


class Finished:
    """A batch that was done when it was submitted."""

    def __init__(self, rendered: list[Rendered]) -> None:
        self._rendered = rendered

    def done(self) -> bool:
        """See `Rendering.done`."""
        return True

    def result(self) -> list[Rendered]:
        """See `Rendering.result`."""
        return self._rendered


class Renderer(Protocol):
    """Turns recipes into groups. Used by one thread at a time."""

    @property
    def fingerprint(self) -> str:
        """Names the model and every setting that changes its pixels."""

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        """The groups of `recipes`, in order; uint8, m x 3 x send_px x send_px.

        The noise of an image comes from its own seed alone; its pixels do not depend on what else
        is rendered in the call, up to numerical tolerance.
        """

    def submit(self, recipes: Sequence[Recipe]) -> Rendering:
        """Begin what `render` does.

        A GPU is given its work and goes on with it after the call; elsewhere it is done by then.
        Several batches may be under way, in device memory all; their results may be asked for in
        any order.
        """

    def close(self) -> None:
        """Let go of the model's memory."""


def re_render(renderer: Renderer, recipe: Recipe) -> Group:
    """Render a group again: identical noise, and pixels within the renderer's tolerance.

    Raises:
        GeneratorError: the renderer is not the one that the recipe names.
    """
    if recipe.image_fingerprint != renderer.fingerprint:
        raise GeneratorError(
            f"the recipe was rendered by {recipe.image_fingerprint}, this renderer is "
            f"{renderer.fingerprint}; use the model and the images settings of that run"
        )
    return renderer.render([recipe])[0].group
