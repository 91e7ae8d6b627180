"""What gets weight decay, and that each step's settings arrive."""

import pytest
import torch

from online_synclr.config.schema import MimConfig, OptimizerConfig, TrainerConfig
from tests.tiny_objective import tiny_trainer
from trainer.objective.model import build_model
from trainer.objective.optimizer import apply_settings, build_optimizer, decays
from trainer.objective.schedules import StepSettings


@pytest.fixture(scope="module")
def student() -> torch.nn.Module:
    return build_model(tiny_trainer(), run_seed=0).student


def test_matrices_decay_and_nothing_else_does(student: torch.nn.Module) -> None:
    decayed = {name for name, parameter in student.named_parameters() if decays(name, parameter)}
    spared = {name for name, _ in student.named_parameters()} - decayed
    assert {
        "backbone.mask_token",
        "backbone.vit.cls_token",
        "backbone.vit.pos_embed",
        "backbone.vit.patch_embed.proj.bias",
        "backbone.vit.blocks.0.norm1.weight",
        "projector.1.weight",
        "mim_head.gain",
    } <= spared
    assert {
        "backbone.vit.patch_embed.proj.weight",
        "backbone.vit.blocks.0.attn.qkv.weight",
        "projector.0.weight",
        "mim_head.direction",
    } <= decayed
    assert all(name.rsplit(".", 1)[-1] in ("weight", "direction") for name in decayed)


def test_every_parameter_is_in_one_group(student: torch.nn.Module) -> None:
    optimizer = build_optimizer(student, OptimizerConfig())
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == sum(1 for _ in student.parameters())
    assert [group["decay"] for group in optimizer.param_groups] == [True, False]


def test_a_steps_settings_arrive(student: torch.nn.Module) -> None:
    optimizer = build_optimizer(student, OptimizerConfig())
    apply_settings(optimizer, StepSettings(0.25, 0.125, 0.5, 0.04))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125, 0.0]


def test_with_a_zero_gradient_only_decay_moves_parameters(student: torch.nn.Module) -> None:
    optimizer = build_optimizer(student, OptimizerConfig())
    apply_settings(optimizer, StepSettings(0.1, 0.5, 0.5, 0.04))
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in student.named_parameters():
        expected = before[name] * (0.95 if decays(name, parameter) else 1.0)
        torch.testing.assert_close(parameter.detach(), expected)


def test_without_masked_images_there_is_nothing_unused() -> None:
    trainer = TrainerConfig.model_validate(
        {**tiny_trainer().model_dump(), "mim": MimConfig(weight=0.0).model_dump()}
    )
    student = build_model(trainer, run_seed=0).student
    names = [name for name, _ in student.named_parameters()]
    assert not [name for name in names if "mim_head" in name or "mask_token" in name]
