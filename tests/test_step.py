"""One optimiser step: it learns, clips, moves the teacher once, and skips what is not finite."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.rank_pool import RankPool
from tests.tiny_objective import tiny_config
from tests.tiny_step import CPU, tiny_batch, tiny_step, weights
from trainer.distributed import Trainers
from trainer.objective.model import StudentOutput
from trainer.objective.objective import LossParts, Targets
from trainer.objective.schedules import step_settings
from trainer.step import TrainStep
from trainer.step_meter import DivergedLossError, MeterReading, StepMeter, non_finite_flags


def poison(step: TrainStep) -> Callable[[], None]:
    """Make the next losses NaN, as an overflow would; what is returned ends that."""
    objective = step._bound_micro_batches()._objective
    original = objective.compare

    def compare(students: StudentOutput, targets: Targets) -> LossParts:
        parts = original(students, targets)
        return replace(parts, total=parts.total * math.nan)

    def cure() -> None:
        objective.compare = original  # type: ignore[method-assign]

    objective.compare = compare  # type: ignore[method-assign]
    return cure


def test_steps_learn() -> None:
    config = tiny_config(steps=40, optimizer={"peak_lr": 3e-3, "warmup_steps": 1})
    step = tiny_step(config)
    batch = tiny_batch(config, 0)
    losses = []
    for number in range(30):
        step(batch, number)
        losses.append(step.meter.read().means["total"])
        step.meter.start_window()
    assert losses[-1] < losses[0] - 0.2
    assert all(map(math.isfinite, losses))


def test_the_teacher_moves_once_towards_the_new_student() -> None:
    config = tiny_config()
    step = tiny_step(config)
    before = weights(step)
    step(tiny_batch(config, 0), 0)
    after = weights(step)
    momentum = step_settings(config.trainer, 0).ema
    moved = 0
    for name, old in before.items():
        if not name.startswith("teacher."):
            continue
        student = after[name.replace("teacher.", "student.", 1)]
        torch.testing.assert_close(after[name], momentum * old + (1 - momentum) * student)
        moved += not torch.equal(after[name], old)
    assert moved > 5


def test_gradients_are_clipped_and_the_norm_before_is_reported() -> None:
    config = tiny_config(optimizer={"clip_grad_norm": 1e-3})
    step = tiny_step(config)
    step(tiny_batch(config, 0), 0)
    gradients = [p.grad for p in step.model.student.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-3, rel=1e-3)
    assert step.meter.read().means["grad_norm"] > 1e-2


def test_no_clipping_when_it_is_off() -> None:
    config = tiny_config(optimizer={"clip_grad_norm": 0.0})
    step = tiny_step(config)
    step(tiny_batch(config, 0), 0)
    gradients = [p.grad for p in step.model.student.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    assert norm == pytest.approx(step.meter.read().means["grad_norm"])


def _moments(step: TrainStep) -> list[dict[str, torch.Tensor]]:
    parts = step.optimizer.state_dict().values()
    return [moments for part in parts for moments in part["state"].values()]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_neither_student_nor_optimiser(name: str) -> None:
    config = tiny_config(optimizer={"name": name})
    step = tiny_step(config)
    step(tiny_batch(config, 0), 0)
    before = weights(step)
    moments = copy.deepcopy(_moments(step))
    cure = poison(step)
    step(tiny_batch(config, 1), 1)
    after = weights(step)
    for name, old in before.items():
        if name.startswith("student."):
            assert torch.equal(after[name], old), name
        assert bool(torch.isfinite(after[name]).all()), name
    for now, then in zip(_moments(step), moments, strict=True):
        assert now.keys() == then.keys()
        for key, value in now.items():
            assert torch.equal(value, then[key]), key
    reading = step.meter.read()
    assert (reading.num_steps, reading.non_finite_steps) == (1, 1)
    assert math.isfinite(reading.means["total"])
    cure()
    step(tiny_batch(config, 2), 2)
    for name in ("cls_token", "blocks.0.attn.qkv.weight"):
        key = f"student.backbone.vit.{name}"
        assert not torch.equal(weights(step)[key], before[key]), key


def test_no_step_reads_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would make the host wait for a GPU: item(), tolist() and friends of device tensors."""
    config = tiny_config()
    step = tiny_step(config)
    batch = tiny_batch(config, 0)
    step(batch, 0)

    def refuse(self: torch.Tensor) -> object:
        raise AssertionError("the step waited for the device")

    monkeypatch.setattr(torch.Tensor, "item", refuse)
    monkeypatch.setattr(torch.Tensor, "tolist", refuse)
    flags = step._flag_non_finite(_parts(1.0), torch.tensor(2.0))
    step.meter.add(_parts(1.0), torch.tensor(2.0), flags)


def _parts(total: float) -> LossParts:
    value = torch.tensor(total)
    metrics = {"same_concept_share": value * 0, "repeated_share": value * 0}
    return LossParts(value, value, value, value, metrics)


def note(meter: StepMeter, total: float, norm: float = 1.0) -> None:
    parts = _parts(total)
    meter.add(parts, torch.tensor(norm), non_finite_flags(parts, torch.tensor(norm)))


def test_means_leave_out_what_is_not_finite() -> None:
    meter = StepMeter(CPU, max_consecutive=2)
    for total in (1.0, math.nan, 3.0):
        note(meter, total)
    reading = meter.read()
    assert reading.means["total"] == 2.0
    assert (reading.num_steps, reading.non_finite_steps) == (2, 1)
    meter.start_window()
    assert math.isnan(meter.read().means["total"])
    assert meter.read().non_finite_steps == 1


def test_a_loss_that_stays_not_finite_ends_the_run_and_says_which_part_it_was() -> None:
    meter = StepMeter(CPU, max_consecutive=3)
    note(meter, math.inf)
    note(meter, 1.0)
    for _ in range(3):
        meter.read()
        note(meter, 1.0, norm=math.inf)
    with pytest.raises(DivergedLossError, match=r"last 3 steps .* \(grad_norm in 3; .*peak_lr"):
        meter.read()
    assert meter.read().non_finite_steps == 4, "said once"


# --- two ranks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def train_on_ranks(
    poisoned_rank: int | None, settings: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], MeterReading]:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    config = tiny_config(**settings)
    step = tiny_step(config, trainers)
    torch.manual_seed(3)  # for drop path
    for number in range(3):
        if number == 1 and trainers.index == poisoned_rank:
            poison(step)
        step(tiny_batch(config, number, trainers), number)
    return weights(step), step.meter.read()


@pytest.mark.parametrize("poisoned_rank", [None, 1])
@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": {"name": "muon"}}, {"parallel": "fsdp"}], ids=str
)
def test_all_ranks_have_the_same_weights(
    ranks: RankPool, settings: dict[str, Any], poisoned_rank: int | None
) -> None:
    (first, read), (second, read_too) = ranks.run(train_on_ranks, poisoned_rank, settings)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert bool(torch.isfinite(value).all())
    # The poison stays on its rank, so that two of three steps are skipped on both.
    bad = 0 if poisoned_rank is None else 2
    assert read.non_finite_steps == read_too.non_finite_steps == bad


@pytest.mark.parametrize("clip_grad_norm", [0.0, 0.01])
@pytest.mark.parametrize("poisoned_rank", [None, 0])
def test_shards_learn_what_whole_networks_do(
    ranks: RankPool, poisoned_rank: int | None, clip_grad_norm: float
) -> None:
    """Three steps of student, optimiser and average; two of them skipped with the poison."""
    fast = {"peak_lr": 1e-3, "warmup_steps": 1, "clip_grad_norm": clip_grad_norm}
    settings: dict[str, Any] = {"optimizer": {**fast, "ema": [0.9, 0.9]}, "drop_path": 0.2}
    start = weights(tiny_step(tiny_config(**settings)))
    whole, read = ranks.run(train_on_ranks, poisoned_rank, settings)[0]
    settings["parallel"] = "fsdp"
    sharded, read_too = ranks.run(train_on_ranks, poisoned_rank, settings)[0]
    assert read_too.means == pytest.approx(read.means, rel=1e-4)
    assert start.keys() == whole.keys() == sharded.keys()
    for network in ("student", "teacher"):
        names = [name for name in start if name.startswith(network)]
        furthest = max(float((whole[name] - start[name]).abs().max()) for name in names)
        apart = max(float((whole[name] - sharded[name]).abs().max()) for name in names)
        assert apart < furthest / 100, (network, apart, furthest)
