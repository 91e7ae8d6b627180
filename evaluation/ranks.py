"""This process among torchrun's: its device, its process group, and how an evaluation ended on all.

    every rank -> outcome/<round>/<rank>    nothing, or the sentence of what went wrong

The store carries the outcomes, not a collective: a rank that has failed may have left the others
in the middle of one. It waits `GRACE_S` for them to fail likewise, and else ends, upon which
torchrun ends them, too.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from online_synclr.rendezvous import Rendezvous
from online_synclr.topology import RankEnv

GRACE_S = 60.0
"""Between two ranks that fail for the same reason, one of them on a slower disk."""
POLL_S = 0.05
TIMEOUT = timedelta(hours=12)
"""A backstop, never a signal: one rank may fit for hours what the others wait for. torchrun ends
everybody when a rank dies."""


class RanksApartError(RuntimeError):
    """This rank has failed and the others have not: they cannot go on together."""


class Ranks:
    """All ranks of the command. `store`: torchrun's; None where there is one rank.

    Args:
        grace_s: how long a failed rank waits for the others.
    """

    def __init__(
        self, store: dist.Store | None, rank: int, num_ranks: int, grace_s: float = GRACE_S
    ) -> None:
        self._store = store
        self._rank = rank
        self._num_ranks = num_ranks
        self._grace_s = grace_s
        self._round = 0

    def agree(self, failure: str) -> str:
        """What went wrong, of the first rank for which something did; empty if nothing.

        Called by every rank after each piece of work; waits for the others.

        Raises:
            RanksApartError: this rank failed, and the others are still at work after `GRACE_S`.
        """
        self._round += 1
        if self._store is None:
            return failure
        key = f"outcome/{self._round}"
        self._store.set(f"{key}/{self._rank}", failure)
        everybody = [f"{key}/{rank}" for rank in range(self._num_ranks)]
        started_s = time.monotonic()
        while not self._store.check(everybody):
            if failure and time.monotonic() - started_s > self._grace_s:
                raise RanksApartError(failure)
            time.sleep(POLL_S)
        failures = [self._store.get(one).decode() for one in everybody]
        return next(filter(None, failures), "")


@contextmanager
def joined(options: argparse.Namespace, env: RankEnv) -> Iterator[tuple[Bench, Ranks]]:
    """This rank's bench, with a process group if there are several ranks; closed in the end.

    Waits for all ranks to join.

    Raises:
        EvaluationError: the device is not there, or two ranks would share a GPU.
    """
    torch.set_num_threads(_threads(options, env))
    device = _device(options.device, env)
    bench = Bench(
        device=device,
        rank=env.rank,
        num_ranks=env.world_size,
        cache_dir=_cache_dir(options),
        batch_images=options.batch_images,
        cpu_threads=_threads(options, env),
        seed=options.seed,
        precision=options.precision,
        crop_pct=options.crop_pct,
        say=_say if env.rank == 0 else lambda text: None,
    )
    if env.world_size == 1:
        yield bench, Ranks(None, 0, 1)
        return
    store = dist.PrefixStore("evaluate", Rendezvous.join(env).store)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        # Tensors of the CPU go through gloo on GPUs, too: features are gathered there.
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("group", store),
        rank=env.rank,
        world_size=env.world_size,
        timeout=TIMEOUT,
        device_id=device if on_gpu else None,
    )
    yield bench, Ranks(store, env.rank, env.world_size)
    # Only a clean end closes the group: after an error another rank may be in a collective.
    dist.destroy_process_group()


def _threads(options: argparse.Namespace, env: RankEnv) -> int:
    if options.threads:
        return int(options.threads)
    return max(1, len(os.sched_getaffinity(0)) // env.local_world_size)


def _device(name: str, env: RankEnv) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not num_gpus):
        return torch.device("cpu")
    index = int(name.removeprefix("cuda:")) if name.startswith("cuda:") else None
    if not num_gpus or (index or 0) >= num_gpus:
        raise EvaluationError(
            f"--device={name}, but torch sees {num_gpus} GPUs; use another one, or --device cpu."
        )
    if env.local_world_size > (num_gpus if index is None else 1):
        raise EvaluationError(
            f"{env.local_world_size} ranks on this node would share {num_gpus} GPU"
            f"{'s' if num_gpus != 1 else ''}, which NCCL cannot; start one rank a GPU without "
            "naming one, or use --device cpu."
        )
    device = torch.device("cuda", env.local_rank if index is None else index)
    torch.cuda.set_device(device)
    return device


def _cache_dir(options: argparse.Namespace) -> Path | None:
    return None if options.no_cache else Path(options.cache).expanduser()


def _say(text: str) -> None:
    print(f"online_synclr: evaluate: {text}", file=sys.stderr, flush=True)
