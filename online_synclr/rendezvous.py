"""What the ranks of one attempt tell each other, through the store that torchrun serves.

    every rank   -> roster/<rank>        its role, host and device
    trainer 0    -> run                  run id and incarnation, or why there is no run
    trainer 0    -> start                steps done before this attempt, where sizes depend on it
    each trainer -> listen/<index>       the address its receiver is bound to
    each trainer -> goes_on              at the end: every rank is to start itself anew

Every key lies under the attempt's name: a restarted attempt never reads an older one's answers.
Imports torch inside functions, since the command line must answer wrong settings without it.
"""

import json
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from online_synclr.config import ConfigError
from online_synclr.topology import Member, RankEnv, Role, Roster

if TYPE_CHECKING:
    from torch.distributed import Store

POLL_S = 0.05
READ_CHECKPOINT_S = 3600.0
"""Longest wait for trainer 0 to look through checkpoints on a slow disk; a backstop."""


@dataclass(frozen=True)
class RunIdentity:
    """What trainer 0 decided for this attempt."""

    run_id: str
    incarnation: int


class RendezvousError(RuntimeError):
    """Other ranks did not answer, or trainer 0 could not set the run up."""


class Rendezvous:
    """The attempt's store, with one method for each thing that is exchanged."""

    def __init__(self, store: "Store", env: RankEnv, timeout_s: float = 300.0) -> None:
        self.store = store
        self._env = env
        self._timeout_s = timeout_s

    @classmethod
    def join(cls, env: RankEnv) -> "Rendezvous":
        """Connect to torchrun's store (waits for the agent that serves it)."""
        import torch.distributed as dist

        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=300))))
        return cls(dist.PrefixStore(f"online_synclr/{env.attempt_name}", store), env)

    def trainer_store(self) -> "Store":
        """A prefix of their own for the trainers' process groups."""
        import torch.distributed as dist

        return dist.PrefixStore("trainers", self.store)

    def exchange_roster(self, role: Role, gpu: int | None) -> Roster:
        """Publish this rank's role and return everybody's. Waits for every rank of the world."""
        me = Member(
            rank=self._env.rank,
            local_rank=self._env.local_rank,
            node=self._env.node,
            host=socket.gethostname(),
            role=role,
            gpu=gpu,
        )
        self._set(f"roster/{me.rank}", asdict(me))
        ranks = range(self._env.world_size)
        return Roster([Member(**self._get(f"roster/{rank}")) for rank in ranks])

    def publish_run(self, identity: RunIdentity) -> None:
        """Trainer 0: the run is set up."""
        self._set("run", asdict(identity))

    def publish_refusal(self, reason: str) -> None:
        """Trainer 0: there will be no run; the others leave quietly."""
        self._set("run", {"refused": reason})

    def await_run(self) -> RunIdentity:
        """Everybody else: wait for trainer 0.

        Raises:
            ConfigError: trainer 0 refused the run (its reason).
        """
        answer = self._get("run")
        if "refused" in answer:
            raise ConfigError(answer["refused"])
        return RunIdentity(**answer)

    def publish_start(self, step: int) -> None:
        """Trainer 0: this attempt goes on after so many steps."""
        self._set("start", {"step": step})

    def await_start(self) -> int:
        """Everybody else: wait for trainer 0 to have chosen a checkpoint."""
        return int(self._get("start", READ_CHECKPOINT_S)["step"])

    def publish_going_on(self) -> None:
        """A trainer, before it says END: the run goes on at once, in another phase."""
        self._set("goes_on", {})

    @property
    def goes_on(self) -> bool:
        """Whether a trainer has said so. Does not wait."""
        try:
            return bool(self.store.check(["goes_on"]))
        except RuntimeError:  # torchrun, which serves the store, is gone
            return False

    def publish_address(self, trainer_index: int, address: str) -> None:
        """A trainer: its receiver listens here."""
        self._set(f"listen/{trainer_index}", {"address": address})

    def await_addresses(self, num_trainers: int) -> list[str]:
        """A generator: every trainer's address, by trainer index. Waits for each to bind."""
        return [self._get(f"listen/{index}")["address"] for index in range(num_trainers)]

    def _set(self, key: str, value: dict[str, Any]) -> None:
        self.store.set(key, json.dumps(value))

    def _get(self, key: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Poll instead of blocking in the store, so that signals are answered meanwhile."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        while not self.store.check([key]):
            if time.monotonic() > deadline:
                raise RendezvousError(
                    f"no rank published `{key}` within {timeout_s:.0f} s; look for the first "
                    "error in the other ranks' output."
                )
            time.sleep(POLL_S)
        answer: dict[str, Any] = json.loads(self.store.get(key))
        return answer
