"""Captions from a causal language model run by transformers.

Imported by the engine child only: it needs torch and transformers.
"""

from collections.abc import Sequence

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging

from generators.errors import GeneratorError
from generators.fingerprint import fingerprint, model_identity
from generators.language.base import STOP, Completion, Sampling, first_line
from generators.language.sampling import RowSampler
from online_synclr.precision import fast_dtype


class TransformersModel:
    """A causal language model, with one source of chance for each prompt.

    Args:
        model: Hub id or folder.
        device: `cpu` or a CUDA device.
        dtype: Of the weights; `None`: bfloat16 where the device is fast at it, else float32.
    """

    def __init__(
        self,
        model: str,
        *,
        sampling: Sampling,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self._sampling = sampling
        self._device = torch.device(device)
        dtype = dtype or fast_dtype(self._device)
        self._model, self._tokenizer = _load(model, dtype)
        self._model.to(self._device).eval()
        self._newlines = _tokens_with_newline(self._tokenizer)
        self._enders = torch.cat([self._newlines, torch.tensor([self._tokenizer.eos_token_id])])
        parts = {"model": model_identity(model), "dtype": str(dtype), "sampling": vars(sampling)}
        self.fingerprint = f"transformers:{fingerprint(parts)}"

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """See `LanguageModel.complete`."""
        if not prompts:
            return []
        batch = self._tokenizer(list(prompts), return_tensors="pt", padding=True)
        length = batch["input_ids"].shape[1]
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
                generation_config=self._generation_config(),
                logits_processor=LogitsProcessorList([self._chooser(seeds, length)]),
                stopping_criteria=StoppingCriteriaList([_AtNewline(self._newlines)]),
            )
        written = tokens[:, length:].cpu()
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        finished = torch.isin(written, self._enders).any(dim=1).tolist()
        return [
            Completion(first_line(text), finished=ended)
            for text, ended in zip(texts, finished, strict=True)
        ]

    def close(self) -> None:
        """Let go of the model's memory."""
        self._model = None

    def _chooser(self, seeds: Sequence[int], prompt_length: int) -> "_Chooser":
        sampler = RowSampler(
            seeds,
            max_tokens=self._sampling.max_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
        )
        return _Chooser(sampler, prompt_length)

    def _generation_config(self) -> GenerationConfig:
        # Greedy over the processor's outcome: the sampling is done there, a row at a time.
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self._sampling.max_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self._tokenizer.eos_token_id,
        )


class _Chooser(LogitsProcessor):
    """Leaves each row only the token that its own source of chance picked."""

    def __init__(self, sampler: RowSampler, prompt_length: int) -> None:
        self._sampler = sampler
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self._sampler(scores, input_ids.shape[1] - self._prompt_length)
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(1, chosen.unsqueeze(1), 0.0)


class _AtNewline(StoppingCriteria):
    """Ends a row at the first token that holds a newline."""

    def __init__(self, newline_tokens: torch.Tensor) -> None:
        self._newline_tokens = newline_tokens

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], self._newline_tokens.to(input_ids.device))


def _load(model: str, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    logging.disable_progress_bar()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise GeneratorError(
            f"captions.model={model} could not be loaded by transformers ({reason}); give a hub "
            "id or folder of a causal language model"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer


def _tokens_with_newline(tokenizer) -> torch.Tensor:  # type: ignore[no-untyped-def]
    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return torch.tensor([token for token, piece in enumerate(pieces) if STOP in piece])
