"""The live console: a picture that refreshes itself on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from online_synclr.monitor import metrics
from online_synclr.monitor.console_state import ConsoleState, Event, GeneratorLine
from online_synclr.monitor.console_view import describe_roles, draw, plain_line
from online_synclr.monitor.formats import duration
from online_synclr.monitor.hints import diagnose

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

MIN_PLAIN_S = 10.0
"""Plain lines come no closer than this, so that a log of hours stays readable."""
MAX_EVENTS_KEPT = 200


class RunConsole:
    """Shows one run; every method may be called from any thread.

    On a terminal a thread of rich redraws every `every_s` seconds, also while the training loop
    waits for something. Elsewhere a line is printed by the `update` that comes when one is due.
    """

    def __init__(
        self,
        state: ConsoleState,
        *,
        every_s: float,
        console: "Console | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console as RichConsole

        self._state = state
        self._console = console or RichConsole()
        self._clock = clock
        self._began_s = clock()
        self._every_s = every_s
        self._plain_due_s = self._began_s
        self._advised: tuple[str, str] | None = None
        self._lock = threading.RLock()
        self._live = self._start_live() if self._console.is_terminal else None
        if self._live is None:
            self._greet()

    @property
    def state(self) -> ConsoleState:
        """What is shown now."""
        # Without the lock: rich's thread asks while it holds a lock that printing needs.
        return replace(self._state, elapsed_s=self._clock() - self._began_s)

    def update(
        self,
        step: int,
        scalars: Mapping[str, float],
        *,
        phase: str = "",
        generators: Sequence[GeneratorLine] | None = None,
    ) -> None:
        """Show new values; what is left out stays as it was."""
        with self._lock:
            self._state = replace(
                self._state.with_scalars(scalars),
                step=step,
                phase=phase or self._state.phase,
                generators=self._state.generators if generators is None else tuple(generators),
            )
            self._note_knn(scalars)
            self._print_if_due()

    def event(self, text: str) -> None:
        """Show a line that a person must see."""
        with self._lock:
            event = Event(self._clock() - self._began_s, text)
            kept = (*self._state.events, event)[-MAX_EVENTS_KEPT:]
            self._state = replace(self._state, events=kept)
            if self._live is None:
                self._print(f"[{duration(event.elapsed_s)}] ! {text}")

    def print(self, text: str) -> None:
        """Print text that stays, such as the closing words."""
        with self._lock:
            self._print(text)

    def close(self) -> None:
        """Stop refreshing; the last picture stays on the terminal."""
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _start_live(self) -> "Live":
        from rich.live import Live

        live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=max(0.1, 1.0 / self._every_s),
            vertical_overflow="crop",
        )
        live.start()
        return live

    def _draw(self) -> "RenderableType":
        try:
            return draw(self.state)
        except Exception as error:  # An exception would end rich's thread and garble the terminal.
            return f"the console cannot draw this: {error!r}"

    def _greet(self) -> None:
        announcement = self._state.roles.announcement()
        if announcement:
            self._print(announcement)
        self._print(describe_roles(self._state.roles))
        self._print(f"run folder {self._state.run_dir}; curves: {_tensorboard(self._state)}")

    def _note_knn(self, scalars: Mapping[str, float]) -> None:
        accuracy = scalars.get(metrics.KNN_ACCURACY)
        if accuracy is not None:
            first = self._state.knn_first if self._state.knn_first is not None else accuracy
            self._state = replace(self._state, knn_first=first, knn_last=accuracy)

    def _print_if_due(self) -> None:
        now_s = self._clock()
        if self._live is not None or now_s < self._plain_due_s:
            return
        self._plain_due_s = now_s + max(self._every_s, MIN_PLAIN_S)
        self._print(plain_line(self.state))
        self._print_new_advice()

    def _print_new_advice(self) -> None:
        """Say who waits for whom where that changed; a line that repeats it is not read."""
        hint = diagnose(self._state.scalars, self._state.max_reuse, self._state.shape)
        if hint is not None and hint.gist != self._advised:
            self._advised = hint.gist
            self._print(f"           {hint.text}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _tensorboard(state: ConsoleState) -> str:
    return f"tensorboard --logdir {state.run_dir}/tb"
