"""Networks sharded over two trainers: who holds what, and what is left behind after a step.

That they learn the same: tests/test_objective_ranks.py and tests/test_step.py; their checkpoints:
tests/test_checkpoint.py; whole runs: tests/test_run.py.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from online_synclr.config import Config
from tests.rank_pool import RankPool
from tests.test_initial_weights import export
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, CPU, tiny_batch, tiny_step, weights
from trainer.distributed import Trainers
from trainer.initial_weights import VIT, initialise
from trainer.objective.shards import own_parts
from trainer.sharding import is_sharded
from trainer.shared_probe import whole_backbone
from trainer.step import TrainStep

STEPS = 3
FAST = {"peak_lr": 1e-3, "warmup_steps": 1, "ema": [0.5, 0.5]}
"""Teacher and student move far from where they start."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def trained(steps: int = STEPS) -> tuple[TrainStep, Trainers]:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    config = tiny_config(parallel="fsdp", optimizer=FAST)
    step = tiny_step(config, trainers)
    for number in range(steps):
        step(tiny_batch(config, number, trainers), number)
    return step, trainers


@dataclass(frozen=True)
class Held:
    """Numbers of elements on one trainer, and of the whole; notes that FSDP keeps."""

    weights: int
    moments: int
    whole: int
    notes: int
    warned: list[str]


def held() -> Held:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, _ = trained()
    networks = (step.model.student, step.model.teacher)
    parameters = [p for network in networks for p in network.parameters()]
    assert all(isinstance(p, DTensor) for p in parameters), "nothing stays gathered"
    parts = step.optimizer.state_dict().values()
    moments = [m for part in parts for state in part["state"].values() for m in state.values()]
    return Held(
        weights=sum(part.numel() for part in own_parts(parameters)),
        moments=sum(part.numel() for part in own_parts(m for m in moments if m.dim())),
        whole=sum(p.numel() for p in parameters),
        notes=sum(map(num_notes, networks)),
        warned=[str(one.message) for one in caught],
    )


def num_notes(network: torch.nn.Module) -> int:
    """Entries on the order of forward passes that FSDP keeps for a backward pass to come."""
    groups = [
        module._get_fsdp_state()._fsdp_param_group
        for module in network.modules()
        if isinstance(module, FSDPModule)
    ]
    orders = {
        id(group.comm_ctx): len(group.comm_ctx.post_forward_order) for group in groups if group
    }
    return sum(orders.values()) + sum(len(group._post_forward_indices) for group in groups if group)


def test_each_trainer_holds_its_share_and_nothing_piles_up(ranks: RankPool) -> None:
    both = ranks.run(held)
    whole = both[0].whole
    assert sum(one.weights for one in both) == whole
    student = sum(p.numel() for p in tiny_step(tiny_config()).model.student.parameters())
    assert sum(one.moments for one in both) == 2 * student
    for one in both:
        # Of parameters shorter than there are trainers the first has more.
        assert one.weights < 0.55 * whole
        assert one.notes == 0
        assert not [text for text in one.warned if "FSDP" in text]


def copied() -> tuple[dict[str, torch.Tensor] | None, bool, dict[str, torch.Tensor]]:
    step, trainers = trained()
    config = tiny_config()
    state = torch.get_rng_state()
    backbone = whole_backbone(step.model.teacher, config.trainer, trainers)
    undisturbed = torch.equal(torch.get_rng_state(), state)
    whole = weights(step)
    # The others are not asked: a collective in here would never end.
    alone = backbone is not None and bool(backbone(torch.zeros(2, 3, 16, 16)).isfinite().all())
    step(tiny_batch(config, STEPS, trainers), STEPS)
    return (dict(backbone.state_dict()) if backbone and alone else None), undisturbed, whole


def test_the_teacher_is_copied_to_trainer_0_which_may_call_it_alone(ranks: RankPool) -> None:
    (copy, undisturbed, whole), (nothing, _, _) = ranks.run(copied)
    assert nothing is None
    assert undisturbed, "drop path draws as without an evaluation"
    assert copy is not None
    for name, value in copy.items():
        assert torch.equal(value, whole[f"teacher.backbone.{name}"]), name
    assert len(copy) > 20


def here(parallel: str, **trainer: Any) -> tuple[Config, Trainers]:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    return tiny_config(parallel=parallel, **trainer), trainers


def trained_with_blocks(parallel: str) -> dict[str, torch.Tensor]:
    blocks = {"mlp": "swiglu", "layer_scale": 0.5, "registers": 3}
    config, trainers = here(parallel, blocks=blocks, optimizer=FAST)
    step = tiny_step(config, trainers)
    for number in range(STEPS):
        step(tiny_batch(config, number, trainers), number)
    return weights(step)


def test_blocks_beyond_the_paper_learn_the_same_whole_and_sharded(ranks: RankPool) -> None:
    whole, sharded = (ranks.run(trained_with_blocks, how)[0] for how in ("ddp", "fsdp"))
    assert "student.backbone.vit.reg_token" in whole
    for name, value in whole.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=1e-5, msg=name)


def initialised(parallel: str, folder: str) -> dict[str, torch.Tensor]:
    # Only trainer 0 can read the source.
    name = folder if dist.get_rank() == 0 else "/nowhere/at/all"
    config, trainers = here(parallel, init_from=name)
    step = tiny_step(config, trainers)
    initialise(step.model, config, trainers, lambda text: None)
    return weights(step)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_trainer_0_reads_initial_weights_for_all(
    ranks: RankPool, tmp_path: Path, parallel: str
) -> None:
    source = export(tmp_path / "export")
    for got in ranks.run(initialised, parallel, str(tmp_path / "export")):
        for network in ("student", "teacher"):
            name = f"{network}.{VIT}blocks.1.attn.proj.weight"
            assert torch.equal(got[name], source["blocks.1.attn.proj.weight"])


def test_one_trainer_has_nothing_to_share_out() -> None:
    config = tiny_config(parallel="fsdp")
    step = tiny_step(config)
    assert not is_sharded(step.model.student)
    assert whole_backbone(step.model.teacher, config.trainer, ALONE) is step.model.teacher.backbone
    before = weights(step)
    step(tiny_batch(config, 0), 0)
    moved = [name for name, value in weights(step).items() if not torch.equal(value, before[name])]
    assert moved
