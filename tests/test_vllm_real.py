"""The real vLLM with the real embedded language model: in the engine child under torchrun, and as
a node's server."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from online_synclr.paths import CONFIGS_DIR
from tests.generator_runs import PYTHON, TORCHRUN, generator_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

WAIT_S = 600.0


def config(**captions: Any) -> dict[str, Any]:
    bank = str(CONFIGS_DIR / "concepts" / "embedded.yaml")
    return {
        "captions": {"bank": bank, "max_tokens": 24, "batch_captions": 16, **captions},
        "images": {"backend": "synthetic", "send_px": 16, "per_caption": 2},
        "generators": {"restarts_per_hour": 0},
    }


def test_in_the_engine_child_under_torchrun(tmp_path: Path) -> None:
    with generator_run(tmp_path, config(backend="vllm"), TORCHRUN) as run:
        assert run.pool.wait_for(12, WAIT_S), run.logs()
        assert run.end() == 0, run.logs()
    assert {group.recipe.llm_fingerprint[:5] for group in run.pool.groups} == {"vllm:"}
    assert len({group.recipe.caption for group in run.pool.groups}) >= 10


def test_as_the_nodes_server_behind_openai(tmp_path: Path) -> None:
    settings = config(backend="auto", server="per_node", concurrency=8)
    with generator_run(tmp_path, settings, PYTHON) as run:
        assert run.pool.wait_for(12, WAIT_S), run.logs()
        assert run.end() == 0, run.logs()
    assert {group.recipe.llm_fingerprint[:7] for group in run.pool.groups} == {"openai:"}
