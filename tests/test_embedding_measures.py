"""Alignment, uniformity and RankMe against naive implementations, alone and over two trainers."""

import math
from itertools import combinations

import pytest
import torch

from trainer.evaluation import embedding_measures
from trainer.evaluation.embedding_measures import alignment, rankme, uniformity
from trainer.objective.gather import Trainers

ALONE = Trainers()
GROUPS, IMAGES, DIMS = 12, 3, 7


def embeddings(seed: int = 0, rows: int = GROUPS * IMAGES) -> torch.Tensor:
    """Groups around centres of their own; lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(rows // IMAGES, DIMS, generator=generator).repeat_interleave(IMAGES, 0)
    noise = torch.randn(rows, DIMS, generator=generator)
    return (centres + 0.4 * noise) * torch.rand(rows, 1, generator=generator).add(0.5)


def captions() -> torch.Tensor:
    """Of each row; the first two groups share one."""
    group = torch.arange(GROUPS).repeat_interleave(IMAGES)
    group[group == 1] = 0
    return torch.stack((group, -group), dim=1)


def unit(rows: torch.Tensor) -> list[list[float]]:
    return [[value / math.dist(row, [0.0] * DIMS) for value in row] for row in rows.tolist()]


def naive_alignment(rows: torch.Tensor, images: int = IMAGES) -> float:
    points = unit(rows)
    groups = [points[start : start + images] for start in range(0, len(points), images)]
    squares = [math.dist(a, b) ** 2 for group in groups for a, b in combinations(group, 2)]
    return sum(squares) / len(squares)


def naive_uniformity(rows: torch.Tensor, ids: torch.Tensor) -> float:
    pairs = combinations(zip(unit(rows), ids.tolist(), strict=True), 2)
    kernel = [math.exp(-2 * math.dist(a, b) ** 2) for (a, one), (b, two) in pairs if one != two]
    return math.log(sum(kernel) / len(kernel))


def naive_rankme(rows: torch.Tensor) -> float:
    """As the paper writes it, by a singular value decomposition."""
    sigma = torch.linalg.svdvals(rows.double())
    shares = sigma / sigma.sum() + 1e-7
    return math.exp(-sum(p * math.log(p) for p in shares.tolist()))


def test_they_agree_with_naive_ones() -> None:
    rows, ids = embeddings(), captions()
    assert alignment(rows, IMAGES, ALONE) == pytest.approx(naive_alignment(rows), rel=1e-4)
    assert uniformity(rows, ids, ALONE) == pytest.approx(naive_uniformity(rows, ids), rel=1e-4)
    assert rankme(rows, ALONE) == pytest.approx(naive_rankme(rows), rel=1e-6)
    few = embeddings(rows=IMAGES)
    assert rankme(few, ALONE) == pytest.approx(naive_rankme(few), rel=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uniformity(embeddings(), captions(), ALONE)
    monkeypatch.setattr(embedding_measures, "CHUNK_ROWS", 5)
    assert uniformity(embeddings(), captions(), ALONE) == pytest.approx(whole, rel=1e-6)


def test_known_values() -> None:
    same = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    assert alignment(same, 2, ALONE) == pytest.approx(0.0, abs=1e-6)
    assert alignment(same[[0, 2, 1, 3]], 2, ALONE) == pytest.approx(2.0)
    two = torch.tensor([[1, 1], [1, 1], [2, 2], [2, 2]])
    assert uniformity(same, two, ALONE) == pytest.approx(-4.0)
    assert rankme(torch.eye(8), ALONE) == pytest.approx(8.0, rel=1e-4)
    assert rankme(torch.ones(8, 5), ALONE) == pytest.approx(1.0, abs=1e-4)


def test_a_collapse_shows_in_rank_and_uniformity() -> None:
    rows, ids = embeddings(), captions()
    collapsed = rows * torch.tensor([1.0] + [1e-3] * (DIMS - 1)) + torch.eye(DIMS)[0] * 5
    assert rankme(collapsed, ALONE) < 1.2 < 4 < rankme(rows, ALONE)
    assert uniformity(collapsed, ids, ALONE) > -0.1 > uniformity(rows, ids, ALONE)


def test_where_there_is_nothing_to_measure_there_is_no_number() -> None:
    rows, ids = embeddings(), captions()
    broken = rows.clone()
    broken[2, 3] = math.inf
    assert math.isnan(alignment(rows, 1, ALONE))
    assert math.isnan(uniformity(rows, torch.zeros_like(ids), ALONE))
    assert math.isnan(rankme(torch.zeros(4, 3), ALONE))
    assert math.isnan(alignment(broken, IMAGES, ALONE))
    assert math.isnan(uniformity(broken, ids, ALONE))
    assert math.isnan(rankme(broken, ALONE))
