"""Captions from vLLM, inside the engine child.

Imported by the engine child only: it needs vllm. The child's environment (see
`generators.environment`) keeps vLLM's engine in this process: no grandchild that could outlive it,
no process group of its own under torchrun.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm import LLM, SamplingParams

from generators.errors import GeneratorError
from generators.fingerprint import fingerprint, model_identity
from generators.language.base import STOP, Completion, Sampling, first_line
from generators.language.vllm_arguments import engine_arguments
from online_synclr.config.schema import VllmConfig


class VllmModel:
    """A vLLM engine, with one seed for each prompt.

    Args:
        model: Hub id or folder.
        device: `cpu` or a CUDA device; the CUDA device is the only one the child sees.
    """

    def __init__(self, model: str, *, sampling: Sampling, settings: VllmConfig, device: str):
        arguments: dict[str, Any] = dict(engine_arguments(settings, device=device))
        try:
            self._engine: LLM | None = LLM(model, disable_log_stats=True, **arguments)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise GeneratorError(
                f"captions.model={model} could not be started by vLLM ({reason}); see captions.vllm"
                " or set captions.backend=transformers"
            ) from error
        self._sampling = sampling
        parts = {
            "model": model_identity(model),
            "dtype": str(self._engine.llm_engine.model_config.dtype),
            "sampling": vars(sampling),
        }
        self.fingerprint = f"vllm:{fingerprint(parts)}"

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """See `LanguageModel.complete`."""
        if self._engine is None:
            raise GeneratorError("the vLLM engine is closed; start it again")
        outputs = self._engine.generate(
            list(prompts), [self._params(seed) for seed in seeds], use_tqdm=False
        )
        return [
            Completion(first_line(one.text), finished=one.finish_reason != "length")
            for one in (output.outputs[0] for output in outputs)
        ]

    def close(self) -> None:
        """Let go of the engine and its memory."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _params(self, seed: int) -> SamplingParams:
        return SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_tokens,
            stop=[STOP],
            seed=seed,
        )
