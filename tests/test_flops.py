"""The FLOPs formula counts what torch's own counter sees in the plain step."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import step_flops
from benchmarks.reference_step import ReferenceStep
from tests.tiny_objective import tiny_config, tiny_ids, tiny_views
from trainer.objective.model import build_model
from trainer.objective.objective import Objective

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"crops": {"globals_per_image": 2, "locals_per_image": 3}, "mim": {"layers": 1}},
        {"backbone_args": {"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}},
        {"blocks": {"mlp": "swiglu", "layer_scale": 1e-5, "registers": 3}},
        {"blocks": {"mlp": "swiglu"}, "crops": {"global_px": 24, "local_px": 12}},
    ],
)
def test_the_formula_is_what_torch_counts(trainer: dict[str, Any]) -> None:
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=0)
    reference = ReferenceStep(config.trainer, model, CPU)
    for block in (*reference.student.vit.blocks, *reference.teacher.vit.blocks):
        block.attn.fused_attn = False  # whose scores are computed twice in the backward pass
    views = tiny_views(config)
    mask = Objective(config, model.student, model.teacher).draw_mask(views.num_images, 0)
    assert mask is not None
    with FlopCounterMode(display=False) as counter:
        reference.losses(views, mask, tiny_ids(config)[0][:, 0], 0.04)[0].backward()
    assert step_flops(config, model) == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_keys_of_other_trainers_are_multiplied_too() -> None:
    config = tiny_config()
    model = build_model(config.trainer, run_seed=0)
    # Everything but the keys is shared out; each rank's anchors meet the keys of all.
    assert 2.0 * step_flops(config, model, 2) == pytest.approx(step_flops(config, model), rel=1e-9)
