"""Precision of the forward passes."""

import pytest
import torch
from timm.layers import Attention

from tests.tiny_objective import tiny_trainer
from trainer.objective.attention import StepwiseAttention
from trainer.objective.model import build_model
from trainer.objective.precision import Precision, autocast, computes_in_bf16

CPU = torch.device("cpu")


def attentions(precision: str) -> list[Attention]:
    model = build_model(tiny_trainer(precision=precision), run_seed=0)
    networks = (model.student, model.teacher)
    return [m for net in networks for m in net.modules() if isinstance(m, Attention)]


@pytest.mark.parametrize(("tiles", "expected"), [(True, True), (False, False)])
def test_auto_takes_bf16_where_the_cpu_multiplies_it_faster(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert computes_in_bf16("auto", CPU) is expected
    assert computes_in_bf16("bf16", CPU)
    assert not computes_in_bf16("fp32", CPU)


def test_attention_on_cpus_is_unfused_in_bf16_only() -> None:
    assert {type(attention) for attention in attentions("fp32")} == {Attention}
    assert {attention.fused_attn for attention in attentions("fp32")} == {True}
    assert {type(attention) for attention in attentions("bf16")} == {StepwiseAttention}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_step_by_step_is_timms(precision: Precision) -> None:
    """Outcome and gradients."""
    stepwise, timms = attentions("bf16")[0], attentions("fp32")[0]
    timms.load_state_dict(stepwise.state_dict())
    outcomes = []
    for attention in (stepwise, timms):
        tokens = torch.randn((3, 5, 16), generator=torch.Generator().manual_seed(0))
        tokens = (4.0 * tokens).requires_grad_()
        with autocast(precision, CPU):
            out = attention(tokens)
        out.float().square().sum().backward()
        outcomes.append((out.float(), tokens.grad, attention.qkv.weight.grad))
    tolerance = 1e-5 if precision == "fp32" else 0.03
    for ours, theirs in zip(*outcomes, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=tolerance * scale)


def test_attention_that_does_more_is_left_to_timm() -> None:
    args = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "qk_norm": True}
    model = build_model(tiny_trainer(precision="bf16", backbone_args=args), run_seed=0)
    attention = model.student.backbone.vit.blocks[0].attn
    assert type(attention) is Attention
    assert not attention.fused_attn
    with pytest.raises(ValueError, match="knows no masks"):
        attentions("bf16")[0](torch.randn(1, 2, 16), is_causal=True)
