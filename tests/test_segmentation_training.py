"""Heads trained together, on one rank and on two."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.bench import Bench
from evaluation.segmentation.classes import IGNORED, Classes, found_classes
from evaluation.segmentation.folder import find_pairs
from evaluation.segmentation.heads import LinearHeads, TokenNorm
from evaluation.segmentation.judging import judge
from evaluation.segmentation.prediction import Windows
from evaluation.segmentation.reading import Wholes
from evaluation.segmentation.resuming import KeptHeads
from evaluation.segmentation.training import HeadTraining, Recipe
from tests.rank_pool import RankPool
from tests.segmentation_files import CROP_PX, tiny_backbone, write_segmentation

RECIPE = Recipe((1e-2, 3e-2, 1e-1), "sgd", 1e-4, steps=4, warmup_steps=1, batch_crops=4)


def trained(recipe: Recipe, rank: int = 0, num_ranks: int = 1) -> list[torch.Tensor]:
    """Weights of every head, then the norm's mean, after training on made-up crops."""
    random = torch.Generator().manual_seed(0)
    bench = Bench(torch.device("cpu"), rank=rank, num_ranks=num_ranks)
    backbone = tiny_backbone()
    training = HeadTraining(recipe, backbone.feature_dim, 3, bench.device, seed=0)
    own = slice(rank, None, num_ranks)
    for _ in range(recipe.steps):
        images = torch.randint(0, 256, (4, 3, 32, 32), generator=random, dtype=torch.uint8)
        labels = torch.randint(-1, 3, (4, 32, 32), generator=random, dtype=torch.int16)
        labels[1] = IGNORED
        training.train_step(images[own], labels[own], backbone, bench)
    return [*(weight.detach() for weight in training.heads.weights), training.norm.mean_D]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_heads_trained_together_are_those_trained_alone(optimizer: str) -> None:
    recipe = Recipe((1e-3, 1e-2), optimizer, 1e-4, steps=3, warmup_steps=0, batch_crops=4)
    together = trained(recipe)
    for head, rate in enumerate(recipe.learning_rates):
        alone = Recipe((rate,), optimizer, 1e-4, steps=3, warmup_steps=0, batch_crops=4)
        assert torch.equal(trained(alone)[0], together[head])
    assert not torch.equal(together[0], together[1])


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2, timeout_s=240.0) as pool:
        yield pool


def _trained_on_this_rank() -> list[np.ndarray]:
    rank = torch.distributed.get_rank()
    return [tensor.numpy() for tensor in trained(RECIPE, rank, 2)]


def test_two_ranks_train_as_one(pool: RankPool) -> None:
    alone = trained(RECIPE)
    for ours in pool.run(_trained_on_this_rank):
        for mine, expected in zip(ours, alone, strict=True):
            assert np.allclose(mine, expected.numpy(), rtol=1e-3, atol=1e-5)


def judged(root: Path, bench: Bench) -> tuple[Classes, np.ndarray]:
    """Classes found, and confusion matrices of two untrained heads."""
    folder = find_pairs(root)
    classes = found_classes([pair.labels for pair in folder.validation], [0], bench)
    backbone = tiny_backbone()
    heads = LinearHeads(2, backbone.feature_dim, len(classes.values), seed=0)
    wholes = Wholes(folder.validation, classes, CROP_PX)
    norm = TokenNorm(backbone.feature_dim)
    matrices = judge(wholes, backbone, norm, heads, Windows(CROP_PX, 20), bench)
    return classes, matrices.numpy()


def _judged_on_this_rank(root: Path) -> tuple[Classes, np.ndarray]:
    return judged(root, _bench_of_this_rank())


def test_two_ranks_judge_as_one(pool: RankPool, tmp_path: Path) -> None:
    root = write_segmentation(tmp_path / "set", num_training=1, num_validation=3)
    classes, matrices = judged(root, Bench(torch.device("cpu")))
    assert classes.values == (1, 2, 3)
    for theirs in pool.run(_judged_on_this_rank, root):
        assert theirs[0] == classes
        # Whole images are shared out, so each is computed alike whoever has it.
        assert np.array_equal(theirs[1], matrices)


def _resumed_on_this_rank(cache: Path) -> tuple[int, float]:
    """Only the first rank sees the file."""
    bench = _bench_of_this_rank()
    training = HeadTraining(RECIPE, 48, 3, bench.device, seed=bench.rank)
    own = cache if bench.is_first else cache / "elsewhere"
    KeptHeads("key", dataclasses.replace(bench, cache_dir=own)).resume(training)
    return training.step, training.heads.weights[0].sum().item()


def test_all_ranks_take_up_what_the_first_has_kept(pool: RankPool, tmp_path: Path) -> None:
    bench = Bench(torch.device("cpu"), cache_dir=tmp_path)
    training = HeadTraining(RECIPE, 48, 3, bench.device, seed=7)
    training.step = RECIPE.steps
    KeptHeads("key", bench).save_if_due(training)
    expected = (RECIPE.steps, training.heads.weights[0].sum().item())
    assert pool.run(_resumed_on_this_rank, tmp_path) == [expected, expected]


def _bench_of_this_rank() -> Bench:
    return Bench(torch.device("cpu"), rank=torch.distributed.get_rank(), num_ranks=2)
