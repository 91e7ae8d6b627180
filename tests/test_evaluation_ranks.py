"""Extraction and kNN on two ranks: the work is shared, the outcome is that of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.features import FeatureTable, extract_features
from evaluation.splits import SplitName
from tests.feature_fakes import MemorySplit, tiny_backbone
from tests.knn_judging import data, judge
from tests.rank_pool import RankPool
from tests.test_features import bench, chunk_files


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def extract_on_rank(cache_dirs: list[Path], split: MemorySplit) -> tuple[FeatureTable, list[int]]:
    rank = torch.distributed.get_rank()
    place = bench(cache_dirs[rank], rank=rank, num_ranks=2)
    return extract_features(tiny_backbone(), split, place), split.reads


def failure_on_rank(split: MemorySplit) -> str:
    rank = torch.distributed.get_rank()
    if rank == 0:
        split.bad_at = None
    try:
        extract_features(tiny_backbone(), split, bench(rank=rank, num_ranks=2))
    except EvaluationError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("several", [False, True])
def test_two_ranks_share_the_work_and_have_the_same(
    several: bool, two_ranks: RankPool, tmp_path: Path
) -> None:
    alone = extract_features(tiny_backbone(), MemorySplit(300, several=several), bench())
    results = two_ranks.run(extract_on_rank, [tmp_path] * 2, MemorySplit(300, several=several))
    reads = [sorted(reads) for _, reads in results]
    assert sorted(reads[0] + reads[1]) == list(range(300))
    assert [len(one) for one in reads] == [172, 128], "three chunks and two"
    for table, _ in results:
        assert torch.equal(table.features_ND, alone.features_ND)
        assert torch.equal(table.labels, alone.labels)


def test_ranks_without_a_common_disk_send_each_other_what_they_kept(
    two_ranks: RankPool, tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    before = two_ranks.run(extract_on_rank, folders, MemorySplit(300))
    assert [len(chunk_files(folder)) for folder in folders] == [3, 2]
    lost = chunk_files(folders[1])[0]
    lost.unlink()
    after = two_ranks.run(extract_on_rank, folders, MemorySplit(300))
    # The one that is missing is the first one's to compute, and nothing else is.
    assert [reads for _, reads in after] == [list(range(64, 128)), []]
    for (old, _), (new, _) in zip(before, after, strict=True):
        assert torch.equal(old.features_ND, new.features_ND)


def test_one_rank_goes_on_where_two_stopped(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(extract_on_rank, [tmp_path] * 2, MemorySplit(300))
    split = MemorySplit(300)
    extract_features(tiny_backbone(), split, bench(tmp_path))
    assert split.reads == []
    stored = load_file(chunk_files(tmp_path)[0])
    assert stored["features"].shape == (64, 24)


def test_an_error_of_one_rank_is_everybodys(two_ranks: RankPool) -> None:
    failures = two_ranks.run(failure_on_rank, MemorySplit(300, bad_at=70))
    assert failures == ["image 70 cannot be read."] * 2


def judge_on_rank(*names: SplitName) -> dict[str, float]:
    rank = torch.distributed.get_rank()
    place = Bench(device=torch.device("cpu"), rank=rank, num_ranks=2, precision="fp32")
    return judge(data(*names), bench=place).metrics


@pytest.mark.parametrize("names", [("train", "test"), ("train",)])
def test_ranks_judge_a_share_of_the_queries_each(
    names: tuple[SplitName, ...], two_ranks: RankPool
) -> None:
    alone = judge(data(*names)).metrics
    assert two_ranks.run(judge_on_rank, *names) == [alone, alone]
