"""Precision of the forward passes."""

import pytest
import torch
from timm.layers import Attention

from tests.tiny_objective import tiny_trainer
from trainer.objective.model import build_model
from trainer.objective.precision import autocast, computes_in_bf16

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
    assert {attention.fused_attn for attention in attentions("fp32")} == {True}
    assert {attention.fused_attn for attention in attentions("bf16")} == {False}


def test_unfused_attention_computes_the_same() -> None:
    attention = attentions("bf16")[0]
    tokens = torch.randn((3, 5, 16), generator=torch.Generator().manual_seed(0))
    with autocast("bf16", CPU):
        unfused = attention(tokens).float()
        attention.fused_attn = True  # type: ignore[assignment]
        fused = attention(tokens).float()
    torch.testing.assert_close(unfused, fused, rtol=0.02, atol=0.002)
