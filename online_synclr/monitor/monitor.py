"""What people see of a run, behind one object that trainer 0 owns.

    training loop -> Monitor -> metrics.jsonl, TensorBoard, samples/, console
    receiver, vote -> Monitor.event

Nothing here waits for anybody. Nothing here raises into the training loop either: a full disk must
not end a run of days, so a view that cannot be written is named once and counted.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from online_synclr.config import Config
from online_synclr.monitor import about, metrics
from online_synclr.monitor.console import RunConsole
from online_synclr.monitor.console_state import ConsoleState, GeneratorLine
from online_synclr.monitor.guard import Guard
from online_synclr.monitor.hints import Hint, diagnose
from online_synclr.monitor.jsonl import JsonlLog
from online_synclr.monitor.rewind import drop_later_pictures
from online_synclr.monitor.roles import RunRoles
from online_synclr.monitor.summary import Summary
from online_synclr.planning.advice import RunShape
from online_synclr.run_folder import RunFolder, write_durably
from online_synclr.stream.group import Group

if TYPE_CHECKING:
    from rich.console import Console

    from online_synclr.monitor.tensorboard import TensorBoardLog

EVENTS_IN_TEXT = 50


class Monitor:
    """Writes and shows one attempt of a run; every method may be called from any thread.

    Args:
        config: the settings; `monitor.tensorboard` and `monitor.console_every_s` are obeyed here,
            the other cadences are the caller's.
        run_dir: the run folder; made where it is missing.
        roles: who takes part.
        resume_step: the step this attempt continues after; what earlier attempts wrote about
            later steps is dropped. 0 starts everything anew.
        console: where to show; none: the process's standard output.
        clock: wall clock of the records, seconds.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        roles: RunRoles,
        resume_step: int = 0,
        console: "Console | None" = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._roles = roles
        self._folder = RunFolder(run_dir)
        self._console_path = run_dir / "console.json"
        self._console_kept = False
        self._lock = threading.RLock()
        self._step = resume_step
        self._said: set[str] = set()
        self._max_reuse = float(config.pool.max_reuse)
        self._shape = RunShape.of(config, roles)
        self._hint: Hint | None = None
        self._console: RunConsole | None = None
        self._guard = Guard(self._say_failed)
        self._console = self._guard.build(
            "console", lambda: _console(config, run_dir, roles, self._shape, console)
        )
        self._guard.build("run folder", lambda: self._start_folder(roles, resume_step))
        self._jsonl = self._guard.build(
            "metrics.jsonl", lambda: JsonlLog(self._folder.metrics, resume_step)
        )
        self._tensorboard = self._guard.build("TensorBoard", lambda: self._open_board(config))
        self._describe_run(config, roles, resume_step)

    @property
    def failures(self) -> Mapping[str, int]:
        """Writes that failed so far, by view; empty where all is well."""
        return self._guard.failures

    def log_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the metrics of a training step; the caller keeps `monitor.log_every_steps`."""
        self.log_scalars(step, scalars)
        self._note_advice(step, scalars)

    def log_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write metrics of any kind under a step; kNN accuracy also goes to the console."""
        values = {name: float(value) for name, value in scalars.items()}
        now_s = self._clock()
        with self._lock:
            self._step = max(self._step, step)
            self._name_strangers(values)
            jsonl, board = self._jsonl, self._tensorboard
            if jsonl is not None:
                self._guard.run("metrics.jsonl", lambda: jsonl.append(step, now_s, values))
            if board is not None:
                self._guard.run("TensorBoard", lambda: board.scalars(step, now_s, values))
        if metrics.KNN_ACCURACY in values:
            known = {metrics.KNN_ACCURACY: values[metrics.KNN_ACCURACY]}
            self.update_console(self._step, known)

    def log_groups(self, step: int, groups: Sequence[Group]) -> None:
        """Draw whole groups into TensorBoard and `samples/`, captions beside and as a text."""
        if groups:
            with self._lock:
                self._guard.run("sample pictures", lambda: self._write_groups(step, groups))
                self._guard.run("console.json", self._keep_console)

    def update_console(
        self,
        step: int,
        scalars: Mapping[str, float],
        *,
        phase: str = "",
        generators: Sequence[GeneratorLine] | None = None,
    ) -> None:
        """Show where the run is; cheap, so call it often, also while waiting.

        Args:
            step: steps done.
            scalars: metrics by name; earlier values of names left out stay shown.
            phase: what goes on, such as "loading the backbone"; empty: as before.
            generators: the generators as last heard of; none: as before.
        """
        console = self._console
        if console is not None:
            self._guard.run(
                "console",
                lambda: console.update(step, scalars, phase=phase, generators=generators),
            )

    def event(self, text: str) -> None:
        """Say a line that a person must see, and keep it in the console and in TensorBoard."""
        with self._lock:
            console, board = self._console, self._tensorboard
            if console is None:
                return
            self._guard.run("console", lambda: console.event(text))
            if board is not None:
                shown = about.events_text(console.state.events[-EVENTS_IN_TEXT:])
                self._guard.run("TensorBoard", lambda: self._text("run/events", self._step, shown))

    def log_summary(self, summary: Summary) -> None:
        """Write summary.json and TensorBoard's closing text, and say the closing words."""
        advice = self._hint.advice if self._hint is not None else None
        summary = replace(
            summary,
            synthetic_parts=list(self._roles.synthetic_parts),
            advice="" if advice is None else advice.text,
        )
        text = summary.text(self._folder.root)
        with self._lock:
            self._guard.run("summary.json", lambda: summary.write(self._folder.summary))
            if self._tensorboard is not None:
                closing = f"```\n{text}\n```"
                self._guard.run(
                    "TensorBoard", lambda: self._text("run/summary", summary.steps, closing)
                )
        console = self._console
        if console is not None:
            self._guard.run("console", console.close)
            self._guard.run("console", lambda: console.print(text))

    def close(self) -> None:
        """Close every file and stop the console; closing twice is allowed."""
        with self._lock:
            if not self._console_kept:
                self._guard.run("console.json", self._save_console)
            for view in (self._jsonl, self._tensorboard, self._console):
                if view is not None:
                    self._guard.run("closing", view.close)
            console = self._console
            self._jsonl = self._tensorboard = self._console = None
        report = self._guard.report()
        if report and console is not None:
            with suppress(Exception):
                console.print(report)

    def _note_advice(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep it for the summary; TensorBoard is told when it changes."""
        hint = diagnose(scalars, self._max_reuse, self._shape)
        if hint is None:
            return
        with self._lock:
            known, self._hint = self._hint, hint
            if known is None or known.gist != hint.gist:
                self._guard.run("TensorBoard", lambda: self._text("run/advice", step, hint.text))

    def _start_folder(self, roles: RunRoles, resume_step: int) -> None:
        self._folder.create()
        drop_later_pictures(self._folder.samples, resume_step)
        write_durably(self._folder.root / "roles.json", json.dumps(roles.as_dict(), indent=1))

    def _open_board(self, config: Config) -> "TensorBoardLog | None":
        if not config.monitor.tensorboard:
            return None
        from online_synclr.monitor.tensorboard import TensorBoardLog

        return TensorBoardLog(self._folder.tensorboard, self._step, self._clock())

    def _describe_run(self, config: Config, roles: RunRoles, resume_step: int) -> None:
        if self._tensorboard is None:
            return
        texts: list[tuple[str, Callable[[], str]]] = [
            ("run/about", partial(about.run_text, config, roles, resume_step)),
            ("run/config", partial(about.config_text, config)),
            ("run/what_the_curves_mean", about.metrics_text),
        ]
        for tag, text in texts:
            self._guard.run("TensorBoard", partial(self._write_made_text, tag, text))

    def _write_made_text(self, tag: str, make: Callable[[], str]) -> None:
        self._text(tag, self._step, make())

    def _text(self, tag: str, step: int, markdown: str) -> None:
        if self._tensorboard is not None:
            self._tensorboard.text(step, self._clock(), tag, markdown)

    def _write_groups(self, step: int, groups: Sequence[Group]) -> None:
        # Pillow is loaded by the first picture, not by every process that imports a monitor.
        from online_synclr.monitor import samples

        picture = samples.groups_picture(groups)
        if self._tensorboard is not None:
            encoded = samples.encode_jpeg(picture)
            self._tensorboard.picture(
                step, self._clock(), metrics.PICTURE_GROUPS, encoded, picture.size
            )
            self._text(metrics.PICTURE_CAPTIONS, step, samples.captions_markdown(groups))
        samples.SampleFolder(self._folder.samples).save(step, picture)

    def _keep_console(self) -> None:
        # Of the first step's view, without rates, nobody wants a picture.
        if self._console is not None and self._console.state.training:
            self._save_console()

    def _save_console(self) -> None:
        if self._console is not None:
            self._console.state.save(self._console_path)
            self._console_kept = True

    def _name_strangers(self, names: Mapping[str, float]) -> None:
        for name in names:
            if name not in self._said and metrics.describe(name) is None:
                self._said.add(name)
                self.event(f"metric {name} is logged but not described in monitor/metrics.py")

    def _say_failed(self, text: str) -> None:
        if self._console is not None:
            self._console.event(text)


def _console(
    config: Config,
    run_dir: Path,
    roles: RunRoles,
    shape: RunShape,
    console: "Console | None",
) -> RunConsole:
    state = ConsoleState(
        run_dir=str(run_dir),
        roles=roles,
        total_steps=config.trainer.steps,
        max_reuse=float(config.pool.max_reuse),
        shape=shape,
    )
    return RunConsole(state, every_s=config.monitor.console_every_s, console=console)
