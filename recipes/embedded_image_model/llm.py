"""Captions by the embedded LLM, written ahead of the training and for the evaluation.

They come from the product's own draws, prompts, language model and filter, so that the model
learns to draw what a run's captioner really asks for.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from generators.caption_filter import Accepted, CaptionFilter
from generators.concepts import ConceptBank, ConceptStream, Draw
from generators.language.base import Sampling
from generators.language.embedded_llm import embedded_llm_folder
from generators.language.transformers_backend import TransformersModel
from generators.prompts import build_prompt
from online_synclr.seeds import derive_seed
from recipes.embedded_image_model.config import CaptionConfig
from recipes.embedded_image_model.training import Clock

_INCARNATION = 0


def write_captions(
    path: Path, bank_file: Path, config: CaptionConfig, *, each: int, least: int, seed: int
) -> None:
    """Write some `each` captions a concept, `least` of every one, to `path` (JSON lines).

    Goes on where it stopped. A record holds the caption, the number of its draw, the concept and,
    where the draw names one, the background, and the template.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    have = read_captions(path) if path.exists() else []
    path.write_text("".join(json.dumps(record) + "\n" for record in have), encoding="utf-8")
    count = Counter(record["concept"] for record in have)
    bank = ConceptBank.load(bank_file)
    wanted = [concept.name for source in bank.sources for concept in source.concepts]

    def missing() -> int:
        return max(
            each * len(wanted) - count.total(), sum(max(0, least - count[name]) for name in wanted)
        )

    if missing() <= 0:
        return
    stream = ConceptStream(bank, seed, _INCARNATION, 0)
    check = CaptionFilter(max_words=config.max_words, book=bank.prompts).check
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, max_tokens=32)
    model = TransformersModel(str(embedded_llm_folder()), sampling=sampling)
    counter = have[-1]["draw"] + 1 if have else 0
    clock = Clock(f"captions {path.name}", count.total() + missing(), count.total())
    with path.open("a", encoding="utf-8") as file:
        while missing() > 0:
            numbers, draws = [], []
            while len(numbers) < config.batch:
                draw = stream.draw(counter)
                # Once there are enough in all, only concepts that are short are asked for.
                if count.total() < each * len(wanted) or count[draw.concept.name] < least:
                    numbers.append(counter)
                    draws.append(draw)
                counter += 1
            written = model.complete(
                [build_prompt(draw, bank.prompts) for draw in draws],
                [derive_seed("caption", seed, _INCARNATION, 0, number) for number in numbers],
            )
            for draw, one, number in zip(draws, written, numbers, strict=True):
                verdict = check(one.text, draw, finished=one.finished)
                if isinstance(verdict, Accepted):
                    file.write(json.dumps(_record(draw, verdict.caption, number)) + "\n")
                    count[draw.concept.name] += 1
            file.flush()
            clock.tick(count.total() - 1, f"{counter} asked, {missing()} missing")
    model.close()


def _record(draw: Draw, caption: str, number: int) -> dict[str, object]:
    return {
        "draw": number,
        "concept": draw.concept.name,
        "caption": caption,
        "background": draw.background,
        "template": draw.template,
    }


def read_captions(path: Path) -> list[dict]:
    """The records written to `path`; an unfinished last line is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
