"""Two and three ranks compute the loss, the gradients and the metrics of one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from online_synclr.config.schema import Config
from tests.rank_pool import RankPool
from tests.tiny_objective import shard, tiny_config, tiny_ids, tiny_views
from tests.tiny_step import CPU
from trainer import distributed
from trainer.objective.gather import Trainers
from trainer.objective.masking import Mask
from trainer.objective.model import build_model
from trainer.objective.objective import Identities, Objective
from trainer.objective.shards import gathered
from trainer.sharding import is_sharded, shard_if_asked

Result = dict[str, Any]


@pytest.fixture(scope="module", params=[2, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[RankPool]:
    with RankPool(request.param) as ranks:
        yield ranks


def whole_mask(config: Config) -> torch.Tensor:
    """Images 0, 2, 4, ... with tokens 0, 2, 4, ... masked: as many on any rank of two or three."""
    num = config.trainer.batch_groups * config.images_per_group
    crops = config.trainer.crops
    mask = torch.zeros(crops.globals_per_image, num, 4, 4, dtype=torch.bool)
    mask[:, ::2, ::2] = True
    return mask.flatten(0, 1).flatten(1)


def one_step(config: Config, group: "dist.ProcessGroup | None", rank: int, size: int) -> Result:
    """Losses, gradients and metrics of a rank's share of the batch."""
    model = build_model(config.trainer, run_seed=1)
    # A teacher that differs from the student, as after the first step.
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(0.9)
    trainers = distributed.Trainers(index=rank, size=size, device=CPU, device_group=group)
    model = shard_if_asked(model, config.trainer, trainers)
    student: torch.nn.Module = model.student
    assert is_sharded(student) == (group is not None and config.trainer.parallel == "fsdp")
    if group is not None and not is_sharded(student):
        student = DistributedDataParallel(student, process_group=group)
    objective = Objective(config, student, model.teacher, group)
    views = shard(tiny_views(config), rank, size)
    mask = None
    if config.trainer.mim.weight:
        whole = tiny_views(config)
        rows = whole_mask(config).unflatten(0, (-1, whole.num_images))
        rows = rows[:, rank * views.num_images : (rank + 1) * views.num_images].flatten(0, 1)
        mask = Mask(rows, rows.flatten().nonzero()[:, 0])
    num = views.num_images
    captions, concepts, images = (ids[rank * num : (rank + 1) * num] for ids in tiny_ids(config))
    choice = {"caption": captions, "concept": concepts, "image": images}
    ids = Identities(choice[config.trainer.contrastive.positives], concepts, captions)
    targets = objective.targets(objective.teach(views.globals_, mask), ids, step=1)
    parts = objective.compare(objective.predict(views, mask), targets)
    parts.total.backward()
    return {
        "losses": torch.stack([parts.total, parts.global_, parts.local, parts.mim]).detach(),
        "metrics": {name: float(value) for name, value in parts.metrics.items()},
        "gradients": gathered(
            {name: p.grad for name, p in model.student.named_parameters()}, keep=True
        ),
    }


def step_of_rank(trainer: dict[str, Any]) -> Result:
    return one_step(
        tiny_config(**trainer), dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    )


CASES: dict[str, dict[str, Any]] = {
    "captions": {},
    "two global crops": {"crops": {"globals_per_image": 2}},
    "images": {"crops": {"globals_per_image": 2}, "contrastive": {"positives": "image"}},
    "concepts": {"contrastive": {"positives": "concept"}},
    "other concepts": {"contrastive": {"negatives": "other_concepts"}},
    "no masked images, no local crops": {"mim": {"weight": 0.0}, "crops": {"locals_per_image": 0}},
    "recomputed blocks": {"recompute_blocks": True},
    "no predictor": {"contrastive": {"predictor_layers": 0}},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_agree_with_one(pool: RankPool, parallel: str, case: str) -> None:
    expected = one_step(tiny_config(**CASES[case]), None, rank=0, size=1)
    results = pool.run(step_of_rank, {**CASES[case], "parallel": parallel})
    losses = torch.stack([result["losses"] for result in results])
    torch.testing.assert_close(losses.mean(dim=0), expected["losses"], atol=1e-5, rtol=1e-5)
    # Each rank has anchors of its own: equal losses would mean equal shares of the batch.
    assert losses.std(dim=0)[0] > 1e-4
    for result in results:
        assert result["metrics"] == pytest.approx(expected["metrics"])
        for name, gradient in expected["gradients"].items():
            assert gradient is not None, name
            close = torch.allclose(result["gradients"][name], gradient, atol=1e-5, rtol=1e-3)
            assert close, name


def test_metrics_count_groups_and_concepts() -> None:
    """Captions 0 1 2 3 4 0 of concepts 0 0 1 1 2 0, two images each."""
    metrics = one_step(tiny_config(), None, rank=0, size=1)["metrics"]
    assert metrics["repeated_share"] == pytest.approx(2 / 6)
    # Of the eight negatives of caption 0 (four images) two are of its concept, and so on.
    shares = [2 / 8, 4 / 10, 2 / 10, 2 / 10, 0 / 10, 2 / 8]
    assert metrics["same_concept_share"] == pytest.approx(sum(shares) / 6)


def gather_rows() -> torch.Tensor:
    return Trainers(dist.group.WORLD).gather(torch.tensor([[dist.get_rank(), 2**62 + 1]]))


def test_rows_are_gathered_in_rank_order_without_rounding(pool: RankPool) -> None:
    results = pool.run(gather_rows)
    for rows in results:
        assert rows.tolist() == [[rank, 2**62 + 1] for rank in range(len(results))]


def draw_of_rank() -> tuple[list[int], float]:
    config = tiny_config(batch_groups=4)
    model = build_model(config.trainer, run_seed=1)
    objective = Objective(config, model.student, model.teacher, dist.group.WORLD)
    mask = objective.draw_mask(tiny_views(config).num_images, step=3)
    assert mask is not None
    return mask.index_R.tolist(), float(sum(p.sum() for p in model.student.parameters()))


def test_ranks_draw_their_own_masks_of_one_size_and_start_from_equal_weights(
    pool: RankPool,
) -> None:
    masks, weights = zip(*pool.run(draw_of_rank), strict=True)
    assert len({tuple(mask) for mask in masks}) == len(masks)
    assert len({len(mask) for mask in masks}) == 1
    assert len(set(weights)) == 1
