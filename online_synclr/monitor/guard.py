"""Keeps a view that fails from ending the run."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Guard:
    """Runs what may fail; a view's first failure is said, every one is counted.

    Args:
        say: shows one line to people; it may fail too.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.failures: dict[str, int] = {}
        """Failures so far, by view."""

    def run(self, view: str, act: Callable[[], object]) -> None:
        """Do `act`, which belongs to `view`; never raises."""
        try:
            act()
        except Exception as error:
            self.failures[view] = self.failures.get(view, 0) + 1
            if self.failures[view] == 1:
                with suppress(Exception):
                    self._say(f"{view}: cannot be written, the run goes on without it: {error}")

    def build(self, view: str, make: Callable[[], T]) -> T | None:
        """What `make` returns, or None where it fails."""
        built: list[T] = []
        self.run(view, lambda: built.append(make()))
        return built[0] if built else None

    def report(self) -> str:
        """What failed how often, or an empty string."""
        counts = ", ".join(f"{view}: {count}" for view, count in self.failures.items())
        return f"not everything could be written or shown ({counts})" if counts else ""
