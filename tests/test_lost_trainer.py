"""A lost peer is told from every other failure, and said in one short line."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tests.rank_pool import RankPool
from trainer.lost_trainer import LostTrainerError, is_lost_trainer, naming_lost_trainers

GLOO = "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:7"
NCCL = "NCCL error in: NCCLUtils.cpp:94, remote process exited or there was a network error"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(f"{GLOO}. This is typically caused by a crash"), True),
        (RuntimeError("[gloo/pair.cc:537] Read error: Connection reset by peer"), True),
        (dist.DistBackendError(NCCL), True),
        (dist.DistNetworkError("the store does not answer"), True),
        (RuntimeError("CUDA out of memory"), False),
        (RuntimeError("the connection between these layers is broken"), False),
        (dist.DistBackendError("NCCL error: invalid usage"), False),
    ],
)
def test_what_torch_says_of_a_lost_peer(error: RuntimeError, lost: bool) -> None:
    assert is_lost_trainer(error) is lost
    with pytest.raises(LostTrainerError if lost else type(error)), naming_lost_trainers():
        raise error


def test_it_is_one_short_line() -> None:
    error = RuntimeError(f"{GLOO}. This is typically caused by a crash\nand more")
    with (
        pytest.raises(LostTrainerError, match=r"^Connection closed by peer \[::1\]:7$"),
        naming_lost_trainers(),
    ):
        raise error


@pytest.fixture
def ranks() -> Iterator[RankPool]:
    with RankPool(2, timeout_s=60.0) as pool:
        yield pool


def gather_with_one_that_dies() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with naming_lost_trainers():
        tensor = torch.zeros(1)
        dist.all_gather([torch.zeros(1), torch.zeros(1)], tensor)


def test_a_collective_with_a_killed_rank(ranks: RankPool) -> None:
    with pytest.raises(RuntimeError, match=r"LostTrainerError: .*[Cc]onnection"):
        ranks.run(gather_with_one_that_dies)
