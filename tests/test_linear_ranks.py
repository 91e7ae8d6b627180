"""A linear probe on two ranks against one. No scikit-learn here: the ranks would import it, too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.errors import EvaluationError
from evaluation.linear.accuracy import measure_accuracy
from evaluation.linear.division import divide
from evaluation.linear.judge import judge
from evaluation.linear.protocol import Protocol
from evaluation.linear.streamed import StreamedSource
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone
from tests.linear_parts import StatisticsSource, bench, close, clusters, train
from tests.rank_pool import RankPool

UNEVEN = Protocol((0.02, 0.5), epochs=4, batch_images=31)
"""The ranks' parts of a batch are not of one size."""
ONE_IMAGE = 1.5 / 31
"""Of the smallest split: rounding may move an image that lies on the border of two classes."""


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2) as ranks:
        yield ranks


def _train_on_rank(exact: bool) -> list[torch.Tensor]:
    here = bench(torch.distributed.get_rank(), torch.distributed.get_world_size())
    table = clusters(101)
    probe = train(table, UNEVEN, here, exact=exact)
    shares = measure_accuracy(probe, table, here).top1
    return [tensor.clone() for tensor in probe.tensors().values()] + [torch.tensor(shares)]


@pytest.mark.parametrize("exact", [True, False])
def test_two_ranks_learn_what_one_learns(pool: RankPool, exact: bool) -> None:
    first, second = pool.run(_train_on_rank, exact)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    table = clusters(101)
    alone = train(table, UNEVEN, bench(), exact=exact)
    for tensor, name in zip(first, alone.tensors(), strict=False):
        assert close(tensor, alone.tensors()[name]), name
    shares = measure_accuracy(alone, table, bench()).top1
    assert first[-1].tolist() == pytest.approx(shares, abs=ONE_IMAGE)


def _go_on_from_the_firsts_file(folder: str) -> tuple[int, torch.Tensor]:
    rank = torch.distributed.get_rank()
    # A folder that only the first rank has, as on several machines.
    here = bench(rank, 2, Path(folder) if rank == 0 else None)
    probe = train(clusters(90), UNEVEN, here, source=StatisticsSource(clusters(90), UNEVEN, here))
    return probe.epochs, probe.heads.weight_HCD.detach().clone()


def test_all_ranks_go_on_from_the_first_ranks_file(pool: RankPool, tmp_path: Path) -> None:
    whole = train(clusters(90), UNEVEN, bench(cache_dir=tmp_path))
    for epochs, weight in pool.run(_go_on_from_the_firsts_file, str(tmp_path)):
        assert epochs == UNEVEN.epochs
        assert torch.equal(weight, whole.heads.weight_HCD)


def _stream_with_a_bad_image(bad_at: int) -> str:
    rank = torch.distributed.get_rank()
    split = MemorySplit(24, bad_at=bad_at)
    source = StreamedSource(tiny_backbone(), split, Protocol(batch_images=8), bench(rank, 2))
    try:
        list(source.epoch(0))
    except EvaluationError as error:
        return str(error)
    return ""


def test_an_image_that_one_rank_cannot_read_is_an_error_of_all(pool: RankPool) -> None:
    """The other rank would wait for it in the sum of the gradients."""
    assert pool.run(_stream_with_a_bad_image, 5) == ["image 5 cannot be read."] * 2


def _judge(augment: bool, rank: int, num_ranks: int) -> dict[str, Any]:
    train = MemorySplit(41, num_classes=7, name="train")
    report = MemorySplit(31, num_classes=7, name="test", seed=1)
    found = judge(
        tiny_backbone(),
        divide(MemoryData({"train": train, "test": report}), "train-holdout", seed=0),
        Protocol(epochs=2, batch_images=15),
        bench(rank, num_ranks),
        augment=augment,
    )
    return {**found.metrics(), "heads": found.details(bench())["learning_rates"]}


def _judge_on_rank(augment: bool) -> dict[str, Any]:
    return _judge(augment, torch.distributed.get_rank(), torch.distributed.get_world_size())


@pytest.mark.parametrize("augment", [True, False])
def test_two_ranks_find_what_one_finds(pool: RankPool, augment: bool) -> None:
    first, second = pool.run(_judge_on_rank, augment)
    assert first == second
    alone = _judge(augment, 0, 1)
    for ours, theirs in zip(alone["heads"], first["heads"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert ours["top1"] == pytest.approx(theirs["top1"], abs=ONE_IMAGE)
