"""A batch in parts gives the step of the whole batch, on one trainer and on two."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peak_memory import allocated_by
from online_synclr.config import Config, ConfigError
from online_synclr.config.checks import check_shares
from tests.rank_pool import RankPool
from tests.tiny_objective import NUM_GROUPS, tiny_config
from tests.tiny_step import ALONE, CPU, tiny_batch, tiny_step, weights
from trainer.distributed import Trainers
from trainer.gradient_sync import gradient_sync
from trainer.objective.masking import Mask, draw_mask
from trainer.objective.objective import LossParts, Objective
from trainer.objective.parts import deal
from trainer.objective.shards import gathered, own_parts
from trainer.objective.views import ViewMaker, Views

Result = dict[str, Any]

CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "no masked images, no local crops": {"mim": {"weight": 0.0}, "crops": {"locals_per_image": 0}},
    "two global crops of one image": {
        "crops": {"globals_per_image": 2},
        "contrastive": {"positives": "image"},
    },
    "other concepts, exchanged": {
        "contrastive": {"negatives": "other_concepts"},
        "shuffle_positives": True,
    },
    "recomputed blocks": {"recompute_blocks": True},
    "fewer masked images than parts": {"mim": {"image_share": 0.1}},
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def settings(micro_batches: int, trainer: dict[str, Any]) -> Config:
    """A high rate, so that weights move; the first step is no warm-up step of rate zero."""
    optimizer = {"peak_lr": 3e-3, "warmup_steps": 0, "lr_reference_groups": NUM_GROUPS}
    return tiny_config(**{"optimizer": optimizer, "micro_batches": micro_batches, **trainer})


def two_steps(config: Config, trainers: Trainers) -> Result:
    """Gradients and losses of the first step, and the weights after the second.

    AdamW's first step hardly depends on the size of a gradient, so gradients are compared as well.
    """
    step = tiny_step(config, trainers)
    for group in step.optimizer.param_groups:
        # Else a weight whose gradient is rounding moves a whole step, to either side.
        group["eps"] = 1e-3
    with torch.no_grad():
        # A teacher that differs from the student, as after some steps.
        for parameter in own_parts(step.model.teacher.parameters()):
            parameter.mul_(0.9)
    step(tiny_batch(config, 0, trainers), 0)
    gradients = {
        name: gathered(parameter.grad, keep=True).clone()
        for name, parameter in step.model.student.named_parameters()
        if parameter.grad is not None
    }
    means = step.meter.read().means
    step(tiny_batch(config, 1, trainers), 1)
    return {"gradients": gradients, "losses": means, "weights": weights(step)}


def check_same(expected: Result, found: Result) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(
            found["gradients"][name], gradient, atol=1e-4 * largest + 1e-9, rtol=1e-4, msg=name
        )
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_step_of_the_whole_batch(case: str) -> None:
    whole = two_steps(settings(1, CASES[case]), ALONE)
    for micro_batches in (2, 4):
        check_same(whole, two_steps(settings(micro_batches, CASES[case]), ALONE))


def two_steps_of_rank(micro_batches: int, trainer: dict[str, Any]) -> Result:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    return two_steps(settings(micro_batches, trainer), trainers)


@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_step_of_the_whole_batch_on_two_trainers(ranks: RankPool, case: str) -> None:
    whole, other = ranks.run(two_steps_of_rank, 1, CASES[case])
    assert whole["gradients"].keys() == other["gradients"].keys()
    for micro_batches in (2, 3):
        results = ranks.run(two_steps_of_rank, micro_batches, CASES[case])
        for result, expected in zip(results, (whole, other), strict=True):
            check_same(expected, result)
        for name, gradient in results[0]["gradients"].items():
            assert torch.equal(gradient, results[1]["gradients"][name]), name


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_parts_of_sharded_trainers_give_the_same_step(ranks: RankPool, micro_batches: int) -> None:
    whole = ranks.run(two_steps_of_rank, 1, {})
    sharded = ranks.run(two_steps_of_rank, micro_batches, {"parallel": "fsdp"})
    for expected, found in zip(whole, sharded, strict=True):
        check_same(expected, found)


def passes_of_rank() -> list[torch.Tensor]:
    """A weight's gradient after a pass that is not averaged, and after one more that is."""
    student = DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    seen = []
    for number, on in ((1.0, False), (10.0, True)):
        with gradient_sync(student, on=on):
            student(torch.full((1, 1), number + dist.get_rank())).sum().backward()
        seen.append(student.module.weight.grad.clone())
    return seen


def test_gradients_are_averaged_in_the_last_pass_only(ranks: RankPool) -> None:
    first, second = ranks.run(passes_of_rank)
    assert (first[0].item(), second[0].item()) == (1.0, 2.0)
    assert first[1].item() == second[1].item() == (11.0 + 13.0) / 2


def test_networks_and_views_see_one_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[int]] = {"views": [], "teacher": [], "student": []}

    def count(owner: type, name: str, key: str) -> None:
        original = getattr(owner, name)

        def counted(self: object, images: Any, *arguments: Any) -> object:
            seen[key].append(images.num_images if isinstance(images, Views) else len(images))
            return original(self, images, *arguments)

        monkeypatch.setattr(owner, name, counted)

    count(ViewMaker, "make", "views")
    count(Objective, "teach", "teacher")
    count(Objective, "predict", "student")
    config = settings(3, {})
    tiny_step(config)(tiny_batch(config, 0), 0)
    assert seen == {"views": [4] * 6, "teacher": [4] * 3, "student": [4] * 3}
    for key in seen:
        seen[key].clear()
    config = settings(1, {})
    tiny_step(config)(tiny_batch(config, 0), 0)
    assert seen == {"views": [12], "teacher": [12], "student": [12]}


@pytest.mark.parametrize("recompute", [False, True])
def test_more_parts_take_less_memory(recompute: bool) -> None:
    peaks = []
    for micro_batches in (1, 3, 12):
        config = settings(micro_batches, {"recompute_blocks": recompute})
        step, batch = tiny_step(config), tiny_batch(config, 0)
        step(batch, 0)
        peaks.append(allocated_by(partial(step, batch, 1)).peak_bytes)
    assert peaks[1] < 0.8 * peaks[0], peaks
    assert peaks[2] < 0.8 * peaks[1], peaks


@pytest.mark.parametrize("bad_part", [0, 2])
def test_one_part_that_is_not_finite_skips_the_step(
    bad_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(3, {})
    step = tiny_step(config)
    step(tiny_batch(config, 0), 0)
    before = weights(step)
    compare = Objective.compare
    number = itertools.count()

    def poisoned(self: Objective, *arguments: Any) -> LossParts:
        parts = compare(self, *arguments)
        return replace(parts, total=parts.total * math.inf) if next(number) == bad_part else parts

    monkeypatch.setattr(Objective, "compare", poisoned)
    step(tiny_batch(config, 1), 1)
    assert step.meter.read().non_finite_steps == 1
    for name, value in weights(step).items():
        if name.startswith("student."):
            assert torch.equal(value, before[name]), name


def deal_all(num_images: int, num_parts: int, mask: Mask | None) -> list[Any]:
    return deal(num_images, num_parts, mask, device=CPU)


@pytest.mark.parametrize(("num_parts", "globals_"), [(1, 1), (3, 1), (4, 2), (12, 2)])
def test_parts_hold_every_image_and_token_once(num_parts: int, globals_: int) -> None:
    mim = tiny_config().trainer.mim
    mask = draw_mask(12 * globals_, 16, mim, generator=torch.Generator().manual_seed(2))
    parts = deal_all(12, num_parts, mask)
    assert sorted(int(i) for part in parts for i in part.images_n) == list(range(12))
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    masked = 0
    for part in parts:
        assert part.mask is not None
        expected = mask.mask_KT.view(globals_, 12, 16)[:, part.images_n].flatten(0, 1)
        assert torch.equal(part.mask.mask_KT, expected)
        assert torch.equal(part.mask.index_R, expected.flatten().nonzero()[:, 0])
        assert part.tokens == slice(masked, masked + len(part.mask.index_R))
        masked += len(part.mask.index_R)
    assert masked == len(mask.index_R)


def test_parts_are_equally_heavy() -> None:
    mim = tiny_config().trainer.mim
    for seed in range(10):
        mask = draw_mask(24, 16, mim, generator=torch.Generator().manual_seed(seed))
        assert {part.mask.index_R.numel() for part in deal_all(24, 4, mask)} == {3 * 8}


def test_images_that_cannot_be_dealt_out_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match=r"12 images .* 5 equal parts"):
        deal_all(12, 5, None)


@pytest.mark.parametrize(
    ("micro_batches", "num_trainers", "mend"),
    [(5, 1, "12 images .* set it to 4 or 6"), (4, 2, "6 images .* to 3 or 6"), (13, 1, "to 12")],
)
def test_numbers_that_do_not_divide_the_share_of_a_trainer_are_refused(
    micro_batches: int, num_trainers: int, mend: str
) -> None:
    with pytest.raises(ConfigError, match=rf"trainer.micro_batches={micro_batches} .*{mend}\.$"):
        check_shares(tiny_config(micro_batches=micro_batches), num_trainers)


@pytest.mark.parametrize(("micro_batches", "num_trainers"), [(1, 1), (12, 1), (6, 2), (3, 2)])
def test_numbers_that_divide_it_are_not(micro_batches: int, num_trainers: int) -> None:
    check_shares(tiny_config(micro_batches=micro_batches), num_trainers)
