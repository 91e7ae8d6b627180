"""`trainer.compile`: the same step from few graphs, whatever the depth, and a clear refusal."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from online_synclr.config import Config
from tests.tiny_objective import tiny_config, tiny_ids, tiny_views
from trainer.objective import compiled
from trainer.objective.compiled import SharedDropPath, compile_networks
from trainer.objective.model import SynCLRModel, build_model
from trainer.objective.objective import Objective

GRAPHS = {"blocks": 3, "projector": 2, "predictor": 1, "mim_head": 2}
"""Of student and teacher; the student's blocks see two sizes of crops."""


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled_model(**trainer: Any) -> tuple[Config, SynCLRModel, CompileCounterWithBackend]:
    config = tiny_config(**trainer)
    model = build_model(config.trainer, run_seed=0)
    counter = CompileCounterWithBackend("aot_eager")
    compile_networks(model.student, model.teacher, backend=counter)
    return config, model, counter


def gradients(config: Config, model: SynCLRModel) -> dict[str, torch.Tensor]:
    objective = Objective(config, model.student, model.teacher)
    torch.manual_seed(5)
    objective.losses(tiny_views(config), *tiny_ids(config), 0).total.backward()
    found = {}
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


def depth(blocks: int) -> dict[str, Any]:
    return {"patch_size": 4, "embed_dim": 16, "depth": blocks, "num_heads": 2}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_the_eager_networks(precision: str) -> None:
    config, model, counter = compiled_model(precision=precision)
    found = gradients(config, model)
    assert counter.frame_count > 0
    eager = gradients(config, build_model(config.trainer, run_seed=0))
    assert found.keys() == eager.keys(), "names as in checkpoints"
    rtol, atol = (1e-4, 1e-6) if precision == "fp32" else (0.1, 2e-3)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, eager[name], rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("blocks", [3, 6])
def test_one_graph_serves_all_blocks_and_nothing_breaks_it(blocks: int) -> None:
    config, model, counter = compiled_model(backbone_args=depth(blocks), drop_path=0.4)
    gradients(config, model)
    # The first block drops nothing and has a graph of its own for each size of the student's.
    assert counter.frame_count == sum(GRAPHS.values()) + 2
    assert not counters["graph_break"]
    before = counter.frame_count
    gradients(config, model)
    for num in (3, 5, 7):
        assert model.teacher.backbone(torch.randn(num, 3, 16, 16)).shape == (num, 16)
    assert counter.frame_count == before, "neither the next step nor evaluation compiles anything"


def test_recomputed_blocks_drop_the_same_paths() -> None:
    kept, recomputed = (
        gradients(*compiled_model(drop_path=0.5, recompute_blocks=recompute)[:2])
        for recompute in (False, True)
    )
    for name, gradient in kept.items():
        torch.testing.assert_close(gradient, recomputed[name], msg=name)


def test_shared_drop_paths_drop_whole_samples_at_their_rate() -> None:
    torch.manual_seed(0)
    drop = SharedDropPath(0.25, torch.device("cpu"))
    tokens = torch.ones(4000, 2, 3)
    dropped = drop.train()(tokens)
    samples = dropped[:, 0, 0]
    assert torch.equal(dropped, samples[:, None, None].expand_as(tokens))
    torch.testing.assert_close(samples[samples > 0].unique(), torch.tensor([4 / 3]))
    assert (samples == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert drop.eval()(tokens) is tokens
    assert not drop.state_dict()


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"a C\+\+ compiler.*trainer.compile=false"):
        build_model(tiny_config(compile=True).trainer, run_seed=0)
