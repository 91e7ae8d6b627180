"""What gets weight decay, and that each step's settings arrive."""

from typing import Literal

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


def of(student: torch.nn.Module, parameter: torch.nn.Parameter) -> str:
    """The name of a parameter."""
    return next(name for name, one in student.named_parameters() if one is parameter)


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


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group(
    student: torch.nn.Module, name: Literal["adamw", "muon"]
) -> None:
    optimizer = build_optimizer(student, OptimizerConfig(name=name))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == sum(1 for _ in student.parameters())
    for group in optimizer.param_groups:
        assert all(decays(of(student, p), p) is group["decay"] for p in group["params"])


def test_muon_takes_the_matrices_inside_and_no_others(student: torch.nn.Module) -> None:
    optimizer = build_optimizer(student, OptimizerConfig(name="muon"))
    taken = {of(student, p) for p in optimizer.param_groups[-1]["params"]}
    assert {
        "backbone.vit.blocks.0.attn.qkv.weight",
        "backbone.vit.blocks.1.mlp.fc2.weight",
        "projector.0.weight",
        "predictor.0.weight",
    } <= taken
    assert not [name for name in taken if "mim_head" in name or "embed" in name or "bias" in name]


def test_a_muon_step_is_the_orthogonal_factor_at_adamws_size() -> None:
    """Against the singular value decomposition; torch's own iteration is rough to a third."""
    torch.manual_seed(0)
    inner = torch.nn.Linear(12, 8, bias=False)
    student = torch.nn.ModuleDict({"projector": torch.nn.Sequential(inner)})
    optimizer = build_optimizer(student, OptimizerConfig(name="muon", muon_lr_ratio=3.0))
    apply_settings(optimizer, StepSettings(0.01, 0.5, 0.5, 0.04))
    average = torch.zeros(8, 12)
    for _ in range(2):
        before, gradient = inner.weight.detach().clone(), torch.randn(8, 12)
        inner.weight.grad = gradient.clone()
        optimizer.step(torch.zeros(()))
        average = 0.95 * average + 0.05 * gradient
        ahead = 0.95 * average + 0.05 * gradient  # Nesterov's look ahead
        u, _, v = torch.linalg.svd(ahead, full_matrices=False)
        moved = (before * (1 - 0.03 * 0.5) - inner.weight.detach()) / (0.03 * 0.2 * 12**0.5)
        singular = u.T @ moved @ v.T
        assert singular.diag().min() > 0.6
        assert singular.diag().max() < 1.3
        assert (singular - singular.diag().diag()).abs().max() < 0.05


def test_a_steps_settings_arrive(student: torch.nn.Module) -> None:
    optimizer = build_optimizer(student, OptimizerConfig(name="muon", muon_lr_ratio=2.0))
    apply_settings(optimizer, StepSettings(0.25, 0.125, 0.5, 0.04))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125, 0.0, 0.125]


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
