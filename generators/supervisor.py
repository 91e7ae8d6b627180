"""The generator rank itself: starts the engine child, watches it, replaces it, reports on it.

    engine child -- reports over a pipe --> supervisor -- STATUS, ERROR --> trainer

A rank must not exit while the run goes on (torchrun would end every rank), so a dead engine is
replaced within a budget, and without budget the rank reports ERROR and idles until END. The loop
waits for: a report, the child's end, a signal, or the next heartbeat.
"""

import enum
import time
from collections.abc import Callable
from typing import Protocol

from generators.language.server import CaptionServer
from generators.reports import Report
from generators.restarts import RecentFailures, RestartBudget, StallWatch
from online_synclr.config.schema import GeneratorsConfig
from online_synclr.stream.messages import PeerState
from online_synclr.stream.peers import LEDGER_USED_UP

_POLL_S = 0.5


class Outcome(enum.Enum):
    """How a generator's work on one attempt ended."""

    FINISHED = "the run is over"
    AGAIN = "the attempt is over, or no trainer is heard any more"
    LEFT = "somebody asked it to leave"
    FAILED = "it cannot go on"


class Engine(Protocol):
    """A started engine child; `stream` is the number its seeds and its connection go by."""

    @property
    def stream(self) -> int:
        """Differs for every start."""

    def reports(self) -> list[Report]:
        """What it has said since the last call; never blocks."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def request_stop(self) -> None:
        """Ask for an orderly end."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> None:
        """Let go of it; ends it if it still runs."""

    def last_words(self) -> str:
        """How it ended, where it reported no error."""


class Control(Protocol):
    """The supervisor's connection to the trainers."""

    @property
    def ended(self) -> bool:
        """Whether a trainer has said END."""

    @property
    def comes_back(self) -> bool:
        """Once `ended`: whether the run may be started again."""

    @property
    def connected(self) -> bool:
        """Whether any trainer listens."""

    @property
    def rejected(self) -> str | None:
        """Why a trainer refused this generator, if one did."""

    def status(self, state: PeerState, counters: dict[str, float]) -> None:
        """Heartbeat."""

    def error(self, message: str, stream: int | None = None) -> None:
        """The engine with that stream is dead; none: this generator has failed for good."""


class Supervisor:
    """A state machine over one engine at a time; `step` decides, the caller waits.

    Args:
        start_engine: Starts an engine, given the number of restarts before it and the caption
            server's address (empty: none).
        grace_s: Time an engine has to end after a stop request.
        abandoned: Whether to stop after so many seconds without any trainer.
        idles: Stay until END when nothing can be done any more, instead of ending.
    """

    def __init__(
        self,
        *,
        start_engine: Callable[[int, str], Engine],
        control: Control,
        settings: GeneratorsConfig,
        heartbeat_s: float,
        grace_s: float,
        server: CaptionServer | None = None,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
        abandoned: Callable[[float], bool] = lambda unheard_s: False,
        idles: bool = True,
    ) -> None:
        self.engine: Engine | None = None
        self.restarts = 0
        self._start_engine = start_engine
        self._control = control
        self._settings = settings
        self._heartbeat_s = heartbeat_s
        self._grace_s = grace_s
        self._server = server
        self._say = say
        self._clock = clock
        self._budget = RestartBudget(
            per_hour=settings.restarts_per_hour,
            backoff_s=settings.backoff_s,
            backoff_max_s=settings.backoff_max_s,
        )
        self._latest = Report()
        self._failure = ""
        # One more than the budget: the one that spends it must not push the first one out.
        self._failures = RecentFailures(settings.restarts_per_hour + 1)
        self._first_failure = ""
        self._said = ""
        """Failure that was said last: one that only comes back is not said again."""
        self._final = False
        self._gave_up = False
        self._used_up = False
        self._start_at_s = clock()
        self._stall = StallWatch(stall_s=settings.stall_s, now_s=clock())
        self._next_heartbeat_s = clock()
        self._abandoned = abandoned
        self._idles = idles
        self._heard_s = clock()
        self._lost = False
        self._signal: int | None = None
        self._stop_by_s: float | None = None
        self._expect_end_until_s: float | None = None
        self._done = False

    def stop(self, signal_number: int) -> None:
        """Leave soon: a signal came. Safe in a signal handler."""
        self._signal = signal_number

    def step(self) -> float | None:
        """Do what is due; returns the longest time to wait before the next step, None: finished."""
        now_s = self._clock()
        if self._server is not None:
            self._server.step(now_s)
        self._listen(now_s)
        if self._stop_by_s is None and self._asked_to_stop():
            self._begin_stop(now_s)
        self._heed_refusal()
        if self.engine is not None:
            self._watch_engine(self.engine, now_s)
        elif self._stop_by_s is not None:
            self._done = True
        elif self._expect_end_until_s is not None:
            if now_s >= self._expect_end_until_s:
                self._expect_end_until_s = None
                self._failed("the engine was told END, its generator was not", now_s)
        elif not self._gave_up and not self._used_up:
            self._start_if_due(now_s)
        self._heartbeat(now_s)
        return None if self._done else min(self._heartbeat_s, _POLL_S)

    def close(self) -> None:
        """End the engine and the server."""
        if self.engine is not None:
            self.engine.close()
        if self._server is not None:
            self._server.close()

    @property
    def exit_code(self) -> int:
        """Of the rank: 0, or 128 + the signal that ended it."""
        return 0 if self._signal is None else 128 + self._signal

    @property
    def outcome(self) -> Outcome:
        """Once `step` has returned None."""
        if self._signal is not None:
            return Outcome.LEFT
        if self._gave_up:
            return Outcome.FAILED
        if self._control.ended:
            return Outcome.AGAIN if self._control.comes_back else Outcome.FINISHED
        return Outcome.AGAIN

    @property
    def state(self) -> PeerState:
        """As shown to the trainers."""
        if self._gave_up:
            return "failed"
        if self._stop_by_s is not None:
            return "draining"
        if self._used_up:
            return "idle"
        return self._latest.state if self.engine is not None else "loading"

    def _asked_to_stop(self) -> bool:
        return self._signal is not None or self._control.ended or self._lost

    def _listen(self, now_s: float) -> None:
        if self._control.connected:
            self._heard_s = now_s
        elif self._stop_by_s is None and self._abandoned(now_s - self._heard_s):
            self._lost = True
            self._say(f"no trainer was heard for {now_s - self._heard_s:.0f} s")

    def _heed_refusal(self) -> None:
        if self._control.rejected is None or self._gave_up or self._stop_by_s is not None:
            return
        if self.engine is not None:
            self._let_go(self.engine)
        self._give_up(f"refused by the trainer: {self._control.rejected}")

    def _begin_stop(self, now_s: float) -> None:
        self._stop_by_s = now_s + self._grace_s
        if self.engine is not None:
            self.engine.request_stop()

    def _start_if_due(self, now_s: float) -> None:
        server_url = ""
        if self._server is not None:
            server_url = self._server.url
            if self._server.error:
                return self._give_up(self._server.error)
            if not server_url:
                return None
        if now_s >= self._start_at_s:
            self._latest, self._failure, self._final = Report(), "", False
            self._stall = StallWatch(stall_s=self._settings.stall_s, now_s=now_s)
            try:
                self.engine = self._start_engine(self.restarts, server_url)
            except OSError as error:
                # A full disk, or no memory for another process: it may pass, the run must not end.
                self._failed(f"the engine could not be started: {error}", now_s)
        return None

    def _watch_engine(self, engine: Engine, now_s: float) -> None:
        # The exit code is read first: what the child said before it ended is then in the pipe.
        code = engine.exit_code()
        self._take_reports(engine)
        if code is not None:
            self._engine_ended(engine, code, now_s)
        elif self._stop_by_s is not None:
            if now_s >= self._stop_by_s:
                self._say("the engine did not end in time and was killed")
                self._let_go(engine)
        elif self._stall.stalled(self._latest.counters, now_s):
            stall_s = self._settings.stall_s
            self._failure = f"the engine made no progress for {stall_s:.0f} s (generators.stall_s)"
            engine.kill()
            self._engine_ended(engine, -9, now_s)

    def _take_reports(self, engine: Engine) -> None:
        for report in engine.reports():
            if report.error:
                self._failure, self._final = report.error, report.final
            else:
                self._latest = report
                if report.counters.get("images_rendered"):
                    self._said = ""

    def _engine_ended(self, engine: Engine, code: int, now_s: float) -> None:
        failure = self._failure or engine.last_words()
        self._let_go(engine)
        if self._stop_by_s is not None:
            return
        if code == 0 and LEDGER_USED_UP in self._latest.counters:
            # torchrun takes a node whose ranks have all ended for one that is done with the job.
            self._used_up = True
            return
        if code == 0 and self._latest.end_seen:
            # Word of END is on its way here too: another engine would only be stopped while it
            # loads, and the trainers told of a restart that was none.
            self._expect_end_until_s = now_s + self._grace_s
            return
        # One that ended well has said BYE. Where nobody told it END, somebody else ended it
        # (SIGTERM), and the run still wants its groups.
        if code != 0:
            self._control.error(failure, engine.stream)
        self._failed(failure, now_s)

    def _failed(self, failure: str, now_s: float) -> None:
        """Start again after a pause, or, where the budget is spent, give up."""
        self._first_failure = self._failures.add(failure, now_s)
        pause_s = None if self._final else self._budget.pause_before_restart(now_s)
        if pause_s is None:
            self._give_up(failure)
            return
        self.restarts += 1
        self._start_at_s = now_s + pause_s
        if failure != self._said:
            self._said = failure
            self._say(f"{failure}; starting it again in {pause_s:.0f} s (restart {self.restarts})")

    def _let_go(self, engine: Engine) -> None:
        engine.close()
        self.engine = None

    def _give_up(self, failure: str) -> None:
        self._gave_up = True
        message = failure
        if self._first_failure and self._first_failure != failure:
            message = f"{self._first_failure}; at last: {failure}"
        self._control.error(message)
        if self._idles:
            self._say(f"{message}; this generator is out until the run ends")
        else:
            self._say(f"{message}; this generator leaves")
            self._done = True

    def _heartbeat(self, now_s: float) -> None:
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + self._heartbeat_s
            self._control.status(self.state, {"restarts": float(self.restarts)})
