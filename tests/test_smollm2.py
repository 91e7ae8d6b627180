"""The real embedded language model writes captions that pass the filter."""

import pytest
import torch

from generators.caption_filter import Accepted, CaptionFilter
from generators.concepts import ConceptBank, ConceptStream
from generators.language.base import Sampling
from generators.language.embedded_llm import embedded_llm_folder
from generators.language.transformers_backend import TransformersModel
from generators.prompts import build_prompt
from online_synclr.paths import CONFIGS_DIR

pytestmark = pytest.mark.slow

NUM_CAPTIONS = 24


def test_most_of_its_captions_are_accepted() -> None:
    bank = ConceptBank.load(CONFIGS_DIR / "concepts" / "embedded.yaml")
    draws = [ConceptStream(bank, 0, 1, 0).draw(counter) for counter in range(NUM_CAPTIONS)]
    prompts = [build_prompt(draw, bank.prompts) for draw in draws]
    sampling = Sampling(temperature=0.8, top_p=0.9, max_tokens=32)
    model = TransformersModel(str(embedded_llm_folder()), sampling=sampling)
    written = model.complete(prompts, range(NUM_CAPTIONS))
    check = CaptionFilter(book=bank.prompts).check
    verdicts = [
        check(one.text, draw, finished=one.finished)
        for one, draw in zip(written, draws, strict=True)
    ]
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    assert len(accepted) >= NUM_CAPTIONS // 2, [one.text for one in written]
    model.close()


def test_conversion_is_done_once_and_needs_no_gguf_afterwards() -> None:
    folder = embedded_llm_folder()
    assert embedded_llm_folder() == folder
    assert (folder / "model.safetensors").is_file()
    assert "quantization_config" not in (folder / "config.json").read_text()


def test_the_same_prompts_and_seeds_give_the_same_captions() -> None:
    sampling = Sampling(temperature=0.8, top_p=0.9, max_tokens=16)
    model = TransformersModel(str(embedded_llm_folder()), sampling=sampling, dtype=torch.float32)
    prompts = ["red fox =>", "a grey owl on a branch =>"]
    together = model.complete(prompts, [1, 2])
    assert together == [model.complete([prompts[i]], [i + 1])[0] for i in range(2)]
    model.close()
