"""The environment of the processes that a generator starts."""

import os
from collections.abc import Mapping

from online_synclr.paths import PROJECT_DIR

_LAUNCHER_PREFIXES = ("MASTER_", "TORCHELASTIC_")
_LAUNCHER_NAMES = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "ROLE_NAME",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    }
)


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what torchrun puts there.

    An engine that starts a process group of its own would take these for its own and hang.
    """
    return {
        name: value
        for name, value in environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }


def engine_environment(
    environ: Mapping[str, str], *, gpu: int | None, cpu_threads: int
) -> dict[str, str]:
    """The environment of an engine child: its GPU (or none), its threads, vLLM kept in-process."""
    env = _common_environment(environ, gpu=gpu, cpu_threads=cpu_threads)
    # A vLLM engine process of its own would be a grandchild that can outlive the run.
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return env


def server_environment(
    environ: Mapping[str, str], *, gpu: int | None, cpu_threads: int
) -> dict[str, str]:
    """The environment of a node's `vllm serve`."""
    return _common_environment(environ, gpu=gpu, cpu_threads=cpu_threads)


def _common_environment(
    environ: Mapping[str, str], *, gpu: int | None, cpu_threads: int
) -> dict[str, str]:
    env = scrubbed(environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_DIR), env.get("PYTHONPATH")]))
    env["CUDA_VISIBLE_DEVICES"] = _visible_device(environ, gpu)
    env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = str(cpu_threads)
    env["TOKENIZERS_PARALLELISM"] = "false"
    # vLLM would otherwise bind its threads to cores that renderer and trainer use too.
    env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    env.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    return env


def _visible_device(environ: Mapping[str, str], gpu: int | None) -> str:
    """The parent's name for its GPU number `gpu`; empty hides all of them."""
    if gpu is None:
        return ""
    visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[gpu].strip() if gpu < len(visible) else str(gpu)
