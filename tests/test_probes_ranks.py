"""Probes over two trainers: what they find is what one finds of all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from online_synclr.config import ConfigError
from tests.rank_pool import RankPool
from tests.test_embedding_measures import ALONE, GROUPS, IMAGES, captions, embeddings
from tests.test_shared_knn import SIDE_PX, Fake, expected, folder, probe_of, share
from tests.tiny_step import CPU
from trainer.distributed import Trainers
from trainer.evaluation.embedding_measures import alignment, rankme, uniformity
from trainer.evaluation.image_share import load_share
from trainer.objective import gather


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def together() -> tuple[float, int]:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    fake = Fake()
    probe = probe_of(fake.snapshot, share(trainers.index, 2), trainers)
    return probe.measure(), sum(fake.sizes)


def test_two_trainers_find_what_one_finds_with_half_of_the_work_each(ranks: RankPool) -> None:
    assert ranks.run(together) == [(expected(), 12), (expected(), 11)]


def shared_folder(path: str, extra: str) -> str:
    rank, root = dist.get_rank(), Path(path)
    mine = root if rank == 0 or not extra else root.with_name(extra)
    try:
        load_share(mine, SIDE_PX, index=rank, size=2, group=dist.group.WORLD)
    except ConfigError as error:
        return str(error)
    return ""


def test_folders_that_differ_between_machines_are_refused(tmp_path: Path, ranks: RankPool) -> None:
    folder(tmp_path / "a")
    folder(tmp_path / "b")
    assert ranks.run(shared_folder, str(tmp_path / "a"), "b") == ["", ""]
    next((tmp_path / "b").glob("*/*.png")).unlink()
    for said in ranks.run(shared_folder, str(tmp_path / "a"), "b"):
        assert "does not hold the same files on every machine" in said


def measured(seed: int) -> list[float]:
    """Of this rank's half of the rows."""
    rank, half = dist.get_rank(), GROUPS * IMAGES // 2
    own = slice(rank * half, (rank + 1) * half)
    rows, ids = embeddings(seed)[own], captions()[own]
    trainers = gather.Trainers(dist.group.WORLD)
    return [
        alignment(rows, IMAGES, trainers),
        uniformity(rows, ids, trainers),
        rankme(rows, trainers),
    ]


def test_two_trainers_find_what_one_finds(ranks: RankPool) -> None:
    first, second = ranks.run(measured, 3)
    rows, ids = embeddings(3), captions()
    alone = [alignment(rows, IMAGES, ALONE), uniformity(rows, ids, ALONE), rankme(rows, ALONE)]
    assert first == second
    assert first == pytest.approx(alone, rel=1e-5)
