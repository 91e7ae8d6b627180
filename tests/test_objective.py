"""The objective as a whole on one rank: its parts, its control experiment, its refusals."""

from typing import Any

import pytest
import torch
from timm.models import checkpoint_seq
from torch import nn

from online_synclr.config.errors import ConfigError
from online_synclr.config.objective_checks import check_objective
from tests.tiny_objective import NUM_GROUPS, tiny_config, tiny_ids, tiny_views
from trainer.objective import backbone
from trainer.objective.model import build_model
from trainer.objective.objective import LossParts, Objective
from trainer.objective.optimizer import apply_settings, build_optimizer
from trainer.objective.schedules import step_settings
from trainer.objective.shuffle import exchanged
from trainer.objective.views import Views


def losses(step: int = 0, incarnation: int = 0, **trainer: Any) -> LossParts:
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=0)
    objective = Objective(config, model.student, model.teacher, incarnation=incarnation)
    return objective.losses(tiny_views(config), *tiny_ids(config), step)


def test_the_total_is_the_weighted_sum() -> None:
    parts = losses(contrastive={"global_weight": 2.0, "local_weight": 3.0}, mim={"weight": 0.5})
    expected = 2.0 * parts.global_ + 3.0 * parts.local + 0.5 * parts.mim
    torch.testing.assert_close(parts.total, expected)
    for part in (parts.global_, parts.local, parts.mim):
        assert part.item() > 0.1


def test_parts_that_are_off_are_zero() -> None:
    parts = losses(mim={"weight": 0.0}, crops={"locals_per_image": 0})
    assert parts.mim.item() == parts.local.item() == 0.0
    assert parts.total.item() == parts.global_.item() > 0


def test_masks_depend_on_step_and_incarnation() -> None:
    first = losses().mim.item()
    assert first == losses().mim.item()
    assert first != losses(step=1, mim={"teacher_temperature": (0.04, 0.04)}).mim.item()
    assert first != losses(incarnation=1).mim.item()


def test_masked_crops_feed_the_contrastive_loss_in_the_same_pass() -> None:
    config = tiny_config()
    model = build_model(config.trainer, run_seed=0)
    objective = Objective(config, model.student, model.teacher)
    views = tiny_views(config)
    mask = objective.draw_mask(views.num_images, 0)
    assert mask is not None
    masked = objective.predict(views, mask)
    plain = objective.predict(views, None)
    changed = (masked.globals_KZ - plain.globals_KZ).abs().amax(dim=1) > 1e-5
    assert torch.equal(changed, mask.mask_KT.any(dim=1))
    torch.testing.assert_close(masked.locals_KZ, plain.locals_KZ)


def test_bf16_networks_give_float32_losses_close_to_float32_ones() -> None:
    exact, rough = losses(precision="fp32"), losses(precision="bf16")
    assert rough.total.dtype == torch.float32
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=0.05)
    assert rough.total.item() != exact.total.item()


def gradients(**trainer: Any) -> list[torch.Tensor]:
    """The student's gradients after one step."""
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=0)
    objective = Objective(config, model.student, model.teacher)
    torch.manual_seed(5)
    objective.losses(tiny_views(config), *tiny_ids(config), 0).total.backward()
    return [p.grad for p in model.student.parameters() if p.grad is not None]


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_recomputed_blocks_give_the_same_gradients(
    drop_path: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = gradients(drop_path=drop_path)
    again = []

    def counted(blocks: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        again.append(tokens.shape)
        return checkpoint_seq(blocks, tokens)

    monkeypatch.setattr(backbone, "checkpoint_seq", counted)
    recomputed = gradients(drop_path=drop_path, recompute_blocks=True)
    assert len(again) == 2, "the student's global and local crops, not the teacher's"
    for one, other in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(one, other)


def train(**trainer: Any) -> list[float]:
    """Global losses of forty steps on one batch in which every caption has a colour."""
    settings = {"steps": 40, "mim": {"weight": 0.0}, "optimizer": {"warmup_steps": 0}, **trainer}
    config = tiny_config(**settings)
    model = build_model(config.trainer, run_seed=0)
    objective = Objective(config, model.student, model.teacher)
    optimizer = build_optimizer(model.student, config.trainer.optimizer)
    ids = tiny_ids(config)
    views = tiny_views(config)
    colours = torch.randn((NUM_GROUPS, 3), generator=torch.Generator().manual_seed(1))
    images = colours[ids[0][:, 0]][:, :, None, None]
    views = Views(views.globals_ + images, views.locals_ + images.repeat(2, 1, 1, 1), 12)
    history = []
    for step in range(40):
        parts = objective.losses(views, *ids, step)
        settings_of_step = step_settings(config.trainer, step)
        optimizer.zero_grad()
        parts.total.backward()
        apply_settings(optimizer, settings_of_step)
        optimizer.step()
        model.ema.step(settings_of_step.ema)
        history.append(parts.global_.item())
    return history


def test_it_learns_and_the_control_experiment_does_not() -> None:
    """Positives that are images of other captions, new ones every step, teach nothing."""
    plain, control = train(), train(shuffle_positives=True)
    assert plain[-1] < 0.75 * plain[0]
    assert control[-1] > 0.9 * control[0]


@pytest.mark.parametrize(("groups", "images"), [(2, 2), (8, 4), (5, 3), (9, 1)])
def test_exchanged_images_are_of_different_groups(groups: int, images: int) -> None:
    seen = set()
    for seed in range(5):
        rows = exchanged(groups * images, images, torch.Generator().manual_seed(seed))
        assert sorted(rows.tolist()) == list(range(groups * images))
        members: dict[int, list[int]] = {}
        for image, row in enumerate(rows.tolist()):
            members.setdefault(row // images, []).append(image // images)
        assert all(len(sources) == len(set(sources)) == images for sources in members.values())
        seen.add(tuple(rows.tolist()))
    assert len(seen) > 1


def test_with_fewer_groups_than_images_as_few_as_possible_stay_together() -> None:
    rows = exchanged(8, 4, torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == list(range(8))
    sources = [image // 4 for image, row in enumerate(rows.tolist()) if row // 4 == 0]
    assert sorted(sources) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="not groups of 4"):
        exchanged(9, 4, torch.Generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrastive": {"positives": "image"}}, "positives=image.*globals_per_image"),
        ({"images_per_group": 1}, "positives=caption.*images.per_caption"),
        ({"images_per_group": 1, "contrastive": {"positives": "concept"}}, "positives=concept"),
        ({"crops": {"global_px": 18}}, "global_px=18 .* set it to 16"),
        ({"crops": {"local_px": 9}}, "local_px=9 .* set it to 8"),
        ({"crops": {"global_scale": (0.9, 0.3)}}, "global_scale"),
        ({"crops": {"local_scale": (0.0, 0.3)}}, "local_scale"),
        ({"augment": {"blur_sigma": (2.0, 0.1)}}, "blur_sigma"),
        ({"augment": {"jitter_strength": (0.4, 0.4, 0.2, 0.6)}}, "jitter_strength"),
        ({"mim": {"image_share": 0.0}}, "mim.image_share=0"),
        ({"mim": {"token_share": 0.0}}, "mim.token_share=0"),
        ({"drop_path": 1.0}, "drop_path"),
        (
            {"parallel": "fsdp", "optimizer": {"name": "muon"}},
            "name=muon .*parallel=ddp or trainer.optimizer.name=adamw",
        ),
    ],
)
def test_undefined_objectives_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_objective(tiny_config(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"contrastive": {"positives": "image"}, "crops": {"globals_per_image": 2}},
        {"images_per_group": 1, "crops": {"globals_per_image": 2}},
        {"images_per_group": 1, "contrastive": {"global_weight": 0.0}},
        {"mim": {"weight": 0.0, "image_share": 0.0}},
        {"crops": {"local_px": 9, "locals_per_image": 0}},
        {"backbone": "unknown", "backbone_args": {}},
    ],
)
def test_defined_objectives_are_not(settings: dict[str, Any]) -> None:
    check_objective(tiny_config(**settings))


def test_every_anchor_of_an_accepted_objective_has_a_positive() -> None:
    """The refusals are exact: the smallest accepted settings give no anchor a zero loss."""
    accepted: list[dict[str, Any]] = [
        {"images_per_group": 1, "crops": {"globals_per_image": 2}},
        {"contrastive": {"positives": "image"}, "crops": {"globals_per_image": 2}},
    ]
    for settings in accepted:
        check_objective(tiny_config(**settings))
        parts = losses(**settings)
        assert torch.isfinite(parts.total)
        assert parts.global_.item() > 0.5
