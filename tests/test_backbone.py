"""ViTs of timm as students and teachers: sizes, masks, refusals, and the moving average."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.tiny_objective import tiny_trainer
from trainer.objective.backbone import Backbone, build_backbone
from trainer.objective.ema import EmaUpdate
from trainer.objective.model import Student, build_model
from trainer.objective.patches import embed_patches, linear_part


def tiny_backbone(**trainer: Any) -> Backbone:
    return build_backbone(tiny_trainer(**trainer), drop_path=0.0, mask_token=True)


def test_crops_of_both_sizes_give_class_and_patch_tokens() -> None:
    backbone = tiny_backbone()
    for side, tokens in ((16, 16), (8, 4), (20, 25)):
        cls, patches = backbone.forward_tokens(torch.randn(3, 3, side, side))
        assert cls.shape == (3, 16)
        assert patches.shape == (3, tokens, 16)


def test_at_the_global_size_the_tokens_are_timms() -> None:
    backbone = tiny_backbone().eval()
    images = torch.randn(2, 3, 16, 16)
    expected = backbone.vit.forward_features(images)
    cls, patches = backbone.forward_tokens(images)
    torch.testing.assert_close(cls, expected[:, 0])
    torch.testing.assert_close(patches, expected[:, 1:])
    torch.testing.assert_close(backbone(images), expected[:, 0])


@pytest.mark.parametrize("side", [16, 8, 20])
def test_patches_as_a_product_are_timms_convolution(side: int) -> None:
    """Outcome and gradients, at every size of crops."""
    embedding = tiny_backbone().vit.patch_embed
    embedding.strict_img_size = False
    images = torch.randn(3, 3, side, side)
    outcomes = []
    for embed in (embedding, partial(embed_patches, embedding)):
        embedding.zero_grad()
        tokens = embed(images)
        tokens.square().sum().backward()
        outcomes.append((tokens, embedding.proj.weight.grad, embedding.proj.bias.grad))
    assert linear_part(embedding) is embedding.proj
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_embeddings_of_another_kind_are_called_as_they_are() -> None:
    overlapping = nn.Conv2d(3, 5, 4, stride=2)
    assert linear_part(overlapping) is None
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(embed_patches(overlapping, images), overlapping(images))


def test_a_masked_token_hides_its_patch_and_keeps_its_position() -> None:
    backbone = tiny_backbone().eval()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True  # row 1, column 1 of 4 x 4
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    changed[:, :, 4:8, 4:8] += 1.0
    hidden, plain = (
        [backbone.forward_tokens(x, m)[0] for x in (images, changed)] for m in (mask, None)
    )
    torch.testing.assert_close(hidden[0], hidden[1])
    assert (plain[0] - plain[1]).abs().max() > 1e-4
    other = torch.zeros_like(mask)
    other[0, 6] = True
    blank = torch.zeros_like(images)
    masked_here, masked_there = (backbone.forward_tokens(blank, m)[1] for m in (mask, other))
    assert (masked_here[0, 5] - masked_there[0, 6]).abs().max() > 1e-4


def test_registers_are_neither_class_nor_patch_tokens() -> None:
    args = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "reg_tokens": 3}
    backbone = tiny_backbone(backbone_args=args)
    cls, patches = backbone.forward_tokens(torch.randn(2, 3, 16, 16))
    assert cls.shape == (2, 16)
    assert patches.shape == (2, 16, 16)


@pytest.mark.parametrize(
    ("name", "crops"),
    [
        ("vit_base_patch16_224", {"global_px": 224, "local_px": 96}),
        ("vit_large_patch14_224", {"global_px": 224, "local_px": 98}),
        ("vit_giant_patch14_reg4_dinov2", {"global_px": 224, "local_px": 98}),
    ],
)
def test_the_papers_and_larger_models_fit(name: str, crops: dict[str, int]) -> None:
    with torch.device("meta"):
        backbone = tiny_backbone(backbone=name, backbone_args={"depth": 1}, crops=crops)
        for side in crops.values():
            cls, patches = backbone.forward_tokens(torch.empty(1, 3, side, side))
            assert cls.shape == (1, backbone.embed_dim)
            assert patches.shape[1] == (side // backbone.patch_px) ** 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vit_colossal"}, "has no model vit_colossal"),
        ({"backbone": "resnet18", "backbone_args": {}}, "resnet18"),
        ({"backbone_args": {"class_token": False, "patch_size": 4}}, "class"),
        ({"backbone_args": {"patch_sise": 4}}, "backbone_args"),
        ({"crops": {"global_px": 18}}, "global_px is 18.* multiple of 4"),
        ({"crops": {"local_px": 10}}, "local_px is 10.* multiple of 4"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_backbone(**settings)


def test_no_local_crops_no_demand_on_their_side() -> None:
    tiny_backbone(crops={"local_px": 10, "locals_per_image": 0})


def test_only_the_student_drops_paths() -> None:
    model = build_model(tiny_trainer(drop_path=0.5), run_seed=0)
    student = [m for m in model.student.modules() if isinstance(m, timm.layers.DropPath)]
    teacher = [m for m in model.teacher.modules() if isinstance(m, timm.layers.DropPath)]
    assert [path.drop_prob for path in student] == [0.5, 0.5]
    assert not teacher


def test_the_teacher_starts_as_the_student_and_follows_it() -> None:
    model = build_model(tiny_trainer(), run_seed=0)
    source = dict(model.student.named_parameters())
    before = {}
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, source[name]), name
        assert not parameter.requires_grad
        before[name] = parameter.detach().clone()
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    model.ema.step(0.9)
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] + 0.1)
    assert {name.split(".")[0] for name in before} == {"backbone", "projector", "mim_head"}


def test_initial_weights_depend_on_the_runs_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model(tiny_trainer(), run_seed=5).student.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = build_model(tiny_trainer(), run_seed=5).student.state_dict()
    other = build_model(tiny_trainer(), run_seed=6).student.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.0.weight"], other["projector.0.weight"])


def test_networks_that_do_not_pair_up_are_refused() -> None:
    teacher = Student(tiny_trainer())
    student = Student(tiny_trainer(mim={"weight": 0.0}))
    with pytest.raises(ValueError, match="no parameter like the teacher's"):
        EmaUpdate(teacher, student)
