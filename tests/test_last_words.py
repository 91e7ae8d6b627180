"""How an engine's end is put into words: what ran out of memory, and what to lower then."""

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from generators.errors import GeneratorError
from generators.last_words import describe
from online_synclr.config.schema import Config
from online_synclr.paths import PROJECT_DIR

CONFIG = Config.model_validate(
    {"images": {"batch_groups": 12, "render_px": 768}, "captions": {"batch_captions": 48}}
)
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB."


def raised_in(module: str, error: Exception) -> Exception:
    """The error as it is caught after it was raised by code of that module."""
    place = ModuleType(module)
    exec("def fail(error):\n    raise error", vars(place))
    fail: Callable[[Exception], None] = place.fail
    with pytest.raises(type(error)) as caught:
        fail(error)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        torch.cuda.OutOfMemoryError(CUDA),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_a_renderer_without_memory_says_what_to_lower(error: Exception) -> None:
    words = describe(raised_in("generators.images.diffusers_renderer", error), CONFIG)
    assert words.startswith("the engine ran out of memory; lower images.batch_groups=12")
    assert "images.render_px=768" in words
    assert words.endswith(f"({type(error).__name__}{f': {error}' if str(error) else ''})")


def test_a_language_model_without_memory_says_what_to_lower() -> None:
    error = raised_in("generators.language.vllm_backend", torch.OutOfMemoryError(CUDA))
    words = describe(error, CONFIG)
    assert "lower captions.batch_captions=48 or captions.vllm.gpu_memory_utilization=0.3" in words
    assert "images." not in words


def test_what_an_error_was_raised_from_counts() -> None:
    cause = raised_in("generators.images.pipeline", torch.OutOfMemoryError(CUDA))
    error = GeneratorError("images.model could not be loaded")
    error.__cause__ = cause
    assert "lower images.batch_groups" in describe(error, CONFIG)


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyError("out of memory"), SystemExit()])
def test_other_errors_are_told_as_they_are(error: BaseException) -> None:
    text = f": {error}" if str(error) else ""
    assert describe(error, CONFIG) == f"{type(error).__name__}{text}"
    assert describe(torch.OutOfMemoryError(CUDA)) == f"OutOfMemoryError: {CUDA}"


def test_no_torch_is_needed() -> None:
    code = "import sys, generators.last_words; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_DIR)
