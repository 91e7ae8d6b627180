"""A generator that torchrun has not started: joins a running job, leaves and comes back at will.

    bootstrap -> JOIN -> place -> a supervisor and its engine, as on a rank -> how it ended
        ^                                                                        |
        +----------- the attempt is over, or nobody is heard any more -----------+

It waits for a place while the job is away, for as long as the caller lets it, and works until the
run is finished, somebody sends a signal, or the generator itself fails for good.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from generators.bootstrap import Bootstrap
from generators.main import play
from generators.role import GeneratorRole
from generators.sizes import SizeError, sized
from generators.supervisor import Outcome
from online_synclr.config.schema import Config
from online_synclr.stop_signals import stop_signal_pipe
from online_synclr.stream.errors import StreamRejected
from online_synclr.stream.join import RunOverError, ask_for_place
from online_synclr.stream.keys import GeneratorKey, KeysError, load_generator_key
from online_synclr.stream.messages import Join, Ticket

ASK_S: Final = 10.0
LOOK_S: Final = 0.25
LOST_SILENCES: Final = 4
"""So many times `stream.silence_s` without any trainer, and the job is looked for anew."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What one process is told.

    Attributes:
        bootstrap: Where to find the job.
        name: This generator's, in the run.
        key_path: Of the key to connect with; none: for private Unix sockets.
        run_id: Of the run it belongs to; empty: that of the first job found.
        gpu: Index among the GPUs this process sees; none: CPU.
        cpu_threads: Threads of the engine's libraries.
        wait_s: Longest time without a job.
    """

    bootstrap: Bootstrap
    name: str
    key_path: Path | None
    run_id: str
    gpu: int | None
    cpu_threads: int
    wait_s: float


class OutsideGenerator:
    """The loop of the module's docstring; `run` once, from the main thread."""

    def __init__(
        self, config: Config, outside: Outside, say: Callable[[str], None] = print
    ) -> None:
        self._config = config
        self._outside = outside
        self._say = say
        self._run_id = outside.run_id
        self._left = False
        self._named: str | None = None
        """What the bootstrap said when this generator joined."""
        self._known: list[str] = []
        """The trainers of the attempt that it joined last."""

    def run(self) -> int:
        """Exit code: 0 when the run is finished or somebody asked it to leave, else 1."""
        try:
            with stop_signal_pipe(self._leave):
                return self._run()
        except (StreamRejected, KeysError, SizeError) as error:
            self._say(f"{error}")
            return 1
        except RunOverError as error:
            self._say(f"the run is finished: {error}")
            return 0

    def _run(self) -> int:
        while True:
            ticket = self._find_place()
            if ticket is None or self._left:
                return 0 if self._left else 1
            outcome = self._work(ticket)
            if self._left or outcome is not Outcome.AGAIN:
                return 1 if outcome is Outcome.FAILED else 0

    def _leave(self, _: int) -> None:
        self._left = True

    def _find_place(self) -> Ticket | None:
        """Ask until there is an answer; None: asked to leave, or waited long enough.

        Raises:
            StreamRejected, RunOverError: the job has answered otherwise.
        """
        deadline_s = time.monotonic() + self._outside.wait_s
        self._say(f"looking for the job at {self._where()}")
        while not self._left and time.monotonic() <= deadline_s:
            self._check_finished()
            ticket = self._ask_each(deadline_s)
            if ticket is not None:
                return ticket
        if not self._left:
            self._say(f"found no job within {self._outside.wait_s:.0f} s (--wait-s)")
        return None

    def _ask_each(self, deadline_s: float) -> Ticket | None:
        """Ask every trainer that is known of, each for a while."""
        named = self._outside.bootstrap.address()
        # The machine of the one that was named may be gone for good, unlike the others'.
        addresses = list(dict.fromkeys([*([named] if named else []), *self._known]))
        until_s = deadline_s if len(addresses) == 1 else 0.0

        def stopping() -> bool:
            over = self._left or time.monotonic() > until_s
            moved = self._outside.bootstrap.address() != named
            return over or moved or self._finished() is not None

        for address in addresses:
            if len(addresses) > 1:
                until_s = min(deadline_s, time.monotonic() + ASK_S)
            ticket = ask_for_place(address, self._join(), key=self._key(), stopping=stopping)
            if ticket is not None:
                self._named = named
                return ticket
        if not addresses:
            time.sleep(LOOK_S)
        return None

    def _finished(self) -> str | None:
        """How the run that this generator belongs to has ended, as far as the bootstrap knows."""
        return self._outside.bootstrap.finished(self._run_id) if self._run_id else None

    def _check_finished(self) -> None:
        reason = self._finished()
        if reason is not None:
            raise RunOverError(reason)

    def _work(self, ticket: Ticket) -> Outcome:
        self._run_id, self._known = ticket.run_id, ticket.addresses
        self._say(
            f"joined run {ticket.run_id}, attempt {ticket.incarnation}, as number {ticket.number}; "
            f"logs in {self._config.run.dir / 'logs'}"
        )
        outcome = play(
            sized(self._config, ticket.image_shape, self._say),
            self._role(ticket),
            abandoned=self._abandoned,
            leaving=lambda: self._left,
        )
        said = {
            Outcome.AGAIN: "the job has stopped; waiting for it to come back",
            Outcome.FINISHED: "the run is finished",
            Outcome.LEFT: "left",
        }
        if outcome in said:
            self._say(said[outcome])
        return outcome

    def _abandoned(self, unheard_s: float) -> bool:
        """Whether the job must be looked for anew: it is silent for good, or known to be elsewhere.

        A connection that broke heals by itself, so silence alone needs long to tell.
        """
        if unheard_s <= 0:
            return False
        long = unheard_s > LOST_SILENCES * self._config.stream.silence_s
        return long or self._outside.bootstrap.address() != self._named

    def _role(self, ticket: Ticket) -> GeneratorRole:
        outside = self._outside
        return GeneratorRole(
            run_id=ticket.run_id,
            run_dir=self._config.run.dir,
            incarnation=ticket.incarnation,
            generator_index=ticket.number,
            position=ticket.position,
            node_index=ticket.number,
            local_generator_index=0,
            trainer_addresses=tuple(ticket.addresses),
            key_path=outside.key_path,
            gpu=outside.gpu,
            cpu_threads=outside.cpu_threads,
            name=outside.name,
        )

    def _join(self) -> Join:
        images = self._config.images
        return Join(
            run_id=self._run_id,
            generator_id=self._outside.name,
            image_shape=(images.per_caption, 3, images.send_px, images.send_px),
        )

    def _key(self) -> GeneratorKey | None:
        path = self._outside.key_path
        return None if path is None else load_generator_key(path)

    def _where(self) -> str:
        return self._outside.bootstrap.address() or "the run folder, once it says where"
