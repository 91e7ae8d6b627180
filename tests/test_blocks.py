"""SwiGLU, LayerScale and registers: what they compute, what they cost, who handles them how."""

import json
from typing import Any, Literal

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from online_synclr.config.schema import OptimizerConfig
from tests.tiny_objective import tiny_config, tiny_trainer
from tests.tiny_step import tiny_batch, tiny_step
from trainer.objective.attention import StepwiseAttention
from trainer.objective.backbone import Backbone, build_backbone
from trainer.objective.blocks import block_arguments, gated_width, portable_model, ratio_of
from trainer.objective.model import build_model
from trainer.objective.optimizer import build_optimizer, decays
from trainer.objective.precision import unfuse_slow_attention

ALL = {"mlp": "swiglu", "layer_scale": 0.5, "registers": 3}
WIDE = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}


def backbone(**trainer: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(tiny_trainer(**trainer), drop_path=0.0, mask_token=True)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_nothing_is_changed_unless_asked_for() -> None:
    assert block_arguments(tiny_trainer()) == {}


def test_a_swiglu_is_its_formula_at_as_many_parameters() -> None:
    plain, gated = backbone(backbone_args=WIDE), backbone(backbone_args=WIDE, blocks=ALL)
    mlp = gated.vit.blocks[0].mlp
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(5, 48)
    gate, value = functional.linear(x, mlp.fc1.weight, mlp.fc1.bias).split(128, dim=-1)
    expected = functional.linear(gate * torch.sigmoid(gate) * value, mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), expected)
    weights, plain_weights = (
        sum(p.numel() for p in one.parameters() if p.dim() == 2)
        for one in (mlp, plain.vit.blocks[0].mlp)
    )
    assert weights == plain_weights == 2 * 48 * 4 * 48


@pytest.mark.parametrize("width", [192, 384, 768, 1024, 1536, 1280, 1408, 50, 1])
def test_timm_makes_the_width_that_is_meant(width: int) -> None:
    gated = gated_width(4 * width)
    assert gated % 8 == 0
    assert 0 <= gated - 8 * width / 3 < 8
    assert int(width * ratio_of(2 * gated, width)) == 2 * gated


def test_the_width_follows_the_models_own_ratio() -> None:
    gated = backbone(backbone_args={**WIDE, "mlp_ratio": 2.0}, blocks={"mlp": "swiglu"})
    assert gated.vit.blocks[0].mlp.fc2.in_features == 64


def test_layer_scale_begins_as_asked_on_both_branches() -> None:
    block = backbone(blocks=ALL).vit.blocks[1]
    for gains in (block.ls1.gamma, block.ls2.gamma):
        assert torch.equal(gains, torch.full((16,), 0.5))


def test_registers_go_behind_the_class_token_and_have_no_positions() -> None:
    network = backbone(blocks={"registers": 3})
    vit = network.vit
    vit.blocks = nn.Sequential()
    images = torch.randn(2, 3, 16, 16)
    cls, patches = network.forward_tokens(images)
    pixels = functional.unfold(images, 4, stride=4).mT
    embedded = functional.linear(
        pixels, vit.patch_embed.proj.weight.flatten(1), vit.patch_embed.proj.bias
    )
    assert vit.pos_embed.shape == (1, 16, 16)
    torch.testing.assert_close(patches, vit.norm(embedded + vit.pos_embed))
    torch.testing.assert_close(cls, vit.norm(vit.cls_token[0]).expand(2, -1))
    assert vit.reg_token.shape == (1, 3, 16)


def test_registers_are_attended_to_at_every_crop_size() -> None:
    network = backbone(blocks={"registers": 2})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    for side in (16, 8):
        images = torch.randn(1, 3, side, side)
        before = network.forward_tokens(images)[0]
        nn.init.normal_(network.vit.reg_token)
        cls, patches = network.forward_tokens(images)
        assert (cls - before).abs().max() > 1e-4
        assert patches.shape == (1, (side // 4) ** 2, 16)


def test_gains_and_registers_are_not_decayed_nor_orthogonalised() -> None:
    student = build_model(tiny_trainer(blocks=ALL), run_seed=0).student
    decayed = {name for name, parameter in student.named_parameters() if decays(name, parameter)}
    blocks = "backbone.vit.blocks.0."
    assert {f"{blocks}mlp.fc1.weight", f"{blocks}mlp.fc2.weight"} <= decayed
    spared = {"backbone.vit.reg_token", f"{blocks}ls1.gamma", f"{blocks}ls2.gamma"}
    assert spared <= {name for name, _ in student.named_parameters()} - decayed
    muon = build_optimizer(student, OptimizerConfig(name="muon")).param_groups[-1]["params"]
    names = {name for name, one in student.named_parameters() if any(one is p for p in muon)}
    assert {f"{blocks}mlp.fc1.weight", f"{blocks}mlp.fc2.weight"} <= names
    assert not names & spared


def test_attention_step_by_step_stands_in_here_too() -> None:
    network = backbone(blocks=ALL)
    images = torch.randn(2, 3, 16, 16)
    expected = network.forward_tokens(images)
    unfuse_slow_attention(network, "bf16", torch.device("cpu"))
    assert isinstance(network.vit.blocks[0].attn, StepwiseAttention)
    for got, want in zip(network.forward_tokens(images), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_part_learns(optimizer: Literal["adamw", "muon"]) -> None:
    settings = {"name": optimizer, "peak_lr": 1e-2, "warmup_steps": 0}
    config = tiny_config(blocks=ALL, optimizer=settings)
    step = tiny_step(config)
    before = {name: p.detach().clone() for name, p in step.model.student.named_parameters()}
    for number in range(2):
        step(tiny_batch(config, number), number)
    unmoved = [
        name
        for name, parameter in step.model.student.named_parameters()
        if torch.equal(parameter, before[name])
    ]
    assert unmoved == []


@pytest.mark.parametrize("blocks", [ALL, {"mlp": "swiglu"}, {"registers": 2}, {}])
def test_json_can_say_which_model_it_is(blocks: dict[str, Any]) -> None:
    settings = tiny_trainer(backbone_args=WIDE, blocks=blocks)
    architecture, arguments = json.loads(json.dumps(portable_model(settings)))
    network = backbone(backbone_args=WIDE, blocks=blocks)
    twin = timm.create_model(architecture, **arguments, img_size=16, num_classes=0)
    twin.load_state_dict(network.vit.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(twin(images), network(images))


def test_what_timm_has_no_name_for_is_said() -> None:
    args = {**WIDE, "qk_norm": True, "norm_layer": "rmsnorm"}
    settings = tiny_trainer(backbone_args=args, blocks={"mlp": "swiglu"})
    arguments = portable_model(settings)[1]
    assert arguments["norm_layer"] == "rmsnorm"
    clip = tiny_trainer(
        backbone="vit_base_patch32_clip_224", backbone_args={}, blocks={"mlp": "swiglu"}
    )
    with pytest.raises(ValueError, match="timm has no architecture"):
        portable_model(clip)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"backbone": "vit_giant_patch14_dinov2", "backbone_args": {}}, "does not have"),
        ({"backbone": "resnet18", "backbone_args": {}}, "resnet18"),
        ({"backbone_args": {"patch_sise": 4}}, "backbone_args"),
    ],
)
def test_a_swiglu_needs_a_plain_mlp_to_stand_in_for(trainer: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        backbone(**trainer, blocks={"mlp": "swiglu"})
