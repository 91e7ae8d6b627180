"""How vLLM's engine is set up, in-process and as a server alike."""

from online_synclr.config.schema import VllmConfig

_CPU_KV_CACHE_BYTES = 2**30
_CPU_BATCHED_TOKENS = 4096


def engine_arguments(settings: VllmConfig, *, device: str) -> dict[str, bool | int | float | str]:
    """vLLM's engine arguments by name, for `cpu` or a CUDA device."""
    common: dict[str, bool | int | float | str] = {
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        # Else the model's own generation settings would override temperature and top-p.
        "generation_config": "vllm",
    }
    specific = _cpu_arguments(settings) if device == "cpu" else _gpu_arguments(settings)
    return {**common, **specific}


def as_flags(arguments: dict[str, bool | int | float | str]) -> list[str]:
    """The arguments as flags of `vllm serve`."""
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def _gpu_arguments(settings: VllmConfig) -> dict[str, bool | int | float | str]:
    arguments: dict[str, bool | int | float | str] = {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
    }
    if settings.kv_cache_memory_bytes:
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_memory_bytes
    return arguments


def _cpu_arguments(settings: VllmConfig) -> dict[str, bool | int | float | str]:
    return {
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes or _CPU_KV_CACHE_BYTES,
        # Compiling takes longer on CPU than a short run needs captions.
        "enforce_eager": True,
        # With a seed for each request vLLM rewinds the generator of a prompt that it cut in
        # pieces, which torch's CPU generator cannot do: prompts must not be cut.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, settings.max_model_len),
    }
