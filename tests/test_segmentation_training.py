"""Heads trained together, on one rank and on two."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evaluation.bench import Bench
from evaluation.segmentation.classes import IGNORED
from evaluation.segmentation.training import HeadTraining, Recipe
from tests.rank_pool import RankPool
from tests.segmentation_files import tiny_backbone

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
