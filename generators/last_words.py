"""What ends an engine, in words that also say what to do about it. Imports no torch."""

from collections.abc import Iterator
from types import TracebackType

from online_synclr.config.schema import Config

_MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "No available memory for the cache")
"""Of errors that are no OutOfMemoryError: of CUDA itself, of cuBLAS, of vLLM."""


def describe(error: BaseException, config: Config | None = None) -> str:
    """The error's class and text; where memory ran out, first what to lower.

    Args:
        error: As caught: its traceback tells whether captions or images were being made.
        config: The engine's settings; none: they could not be read.
    """
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if config is None or not any(map(_is_want_of_memory, _chain(error))):
        return said
    return f"the engine ran out of memory; {_what_to_lower(error, config)} ({said})"


def _is_want_of_memory(error: BaseException) -> bool:
    # By name: torch.OutOfMemoryError is also torch.cuda.OutOfMemoryError, and vLLM has its own.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or _says_so(error)


def _says_so(error: BaseException) -> bool:
    return isinstance(error, RuntimeError | ValueError) and any(
        words in str(error) for words in _MEMORY_WORDS
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _what_to_lower(error: BaseException, config: Config) -> str:
    captions, images = config.captions, config.images
    modules = {name for link in _chain(error) for name in _modules(link.__traceback__)}
    if any(name.startswith("generators.language") for name in modules):
        return (
            f"lower captions.batch_captions={captions.batch_captions} or "
            "captions.vllm.gpu_memory_utilization="
            f"{captions.vllm.gpu_memory_utilization:g}, or take a smaller captions.model"
        )
    return (
        f"lower images.batch_groups={images.batch_groups}, images.render_px={images.render_px} or "
        "captions.vllm.gpu_memory_utilization="
        f"{captions.vllm.gpu_memory_utilization:g}, or take a smaller images.model"
    )


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
