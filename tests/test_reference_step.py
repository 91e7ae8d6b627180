"""The benchmarks' plain step and the trainer's compute the same: losses, gradients, updates."""

from typing import Any

import pytest
import torch

from benchmarks.reference_step import ReferenceStep, reference_name, reference_state
from online_synclr.config import Config
from tests.tiny_objective import tiny_config, tiny_ids, tiny_views
from trainer.objective.masking import Mask
from trainer.objective.model import SynCLRModel, build_model
from trainer.objective.objective import Objective
from trainer.objective.optimizer import apply_settings, build_optimizer
from trainer.objective.schedules import step_settings

CPU = torch.device("cpu")
STEP = 2


def both(**trainer: Any) -> tuple[Config, SynCLRModel, Objective, ReferenceStep]:
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # away from the start, where many weights are zero or one
        for parameter in (*model.student.parameters(), *model.teacher.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    objective = Objective(config, model.student, model.teacher)
    return config, model, objective, ReferenceStep(config.trainer, model, CPU)


def mask_of(config: Config, objective: Objective, step: int) -> Mask:
    mask = objective.draw_mask(tiny_views(config).num_images, step)
    assert mask is not None
    return mask


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"crops": {"globals_per_image": 2, "locals_per_image": 3}},
        {"mim": {"weight": 0.3}, "contrastive": {"global_weight": 2.0, "local_weight": 0.5}},
    ],
)
def test_losses_and_gradients_agree(trainer: dict[str, Any]) -> None:
    config, model, objective, reference = both(**trainer)
    ids = tiny_ids(config)
    views, mask = tiny_views(config), mask_of(config, objective, STEP)
    parts = objective.losses(views, *ids, STEP)
    temperature = step_settings(config.trainer, STEP).teacher_temperature
    plain = reference.losses(views, mask, ids[0][:, 0], temperature)
    for ours, theirs in zip(
        (parts.total, parts.global_, parts.local, parts.mim), plain, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    parts.total.backward()
    plain[0].backward()
    gradients = {name: p.grad for name, p in reference.student.named_parameters()}
    for name, parameter in model.student.named_parameters():
        theirs = gradients.pop(reference_name(name))
        assert parameter.grad is not None, name
        assert theirs is not None, name
        # Sums in another order: single entries far below the largest are rounding alone.
        atol = 1e-4 * theirs.abs().max().item()
        torch.testing.assert_close(parameter.grad, theirs, rtol=1e-3, atol=atol, msg=name)
    assert not gradients


def test_three_steps_give_the_same_students_and_teachers() -> None:
    config, model, objective, reference = both(optimizer={"warmup_steps": 1, "clip_grad_norm": 0.5})
    optimizer = build_optimizer(model.student, config.trainer.optimizer)
    ids = tiny_ids(config)
    start = reference_state(model.student)["vit.blocks.0.attn.qkv.weight"].clone()
    for step in range(3):
        views, settings = tiny_views(config, seed=step), step_settings(config.trainer, step)
        reference(views, mask_of(config, objective, step), ids[0][:, 0], settings)
        optimizer.zero_grad()
        objective.losses(views, *ids, step).total.backward()
        torch.nn.utils.clip_grad_norm_(model.student.parameters(), 0.5)
        apply_settings(optimizer, settings)
        optimizer.step()
        model.ema.step(settings.ema)
    moved = reference_state(model.student)["vit.blocks.0.attn.qkv.weight"]
    assert (moved - start).abs().max() > 1e-3
    for ours, theirs in ((model.student, reference.student), (model.teacher, reference.teacher)):
        state = theirs.state_dict()
        for name, value in reference_state(ours).items():
            # AdamW divides by the gradient's size: where that is rounding alone, so is the step.
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=2e-4, msg=name)


def test_in_bf16_they_are_as_close_as_bf16_is() -> None:
    config, _, objective, reference = both(precision="bf16")
    ids = tiny_ids(config)
    views, mask = tiny_views(config), mask_of(config, objective, STEP)
    ours = objective.losses(views, *ids, STEP).total.item()
    temperature = step_settings(config.trainer, STEP).teacher_temperature
    plain = reference.losses(views, mask, ids[0][:, 0], temperature)[0].item()
    assert reference.bf16
    assert ours == pytest.approx(plain, rel=0.03)


@pytest.mark.parametrize("trainer", [{"optimizer": {"name": "muon"}}, {"mim": {"weight": 0.0}}])
def test_what_the_reference_does_not_do_is_refused(trainer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="AdamW with masked images"):
        both(**trainer)
