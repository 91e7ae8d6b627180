"""Captions of one version's concept bank, written as a run's generator writes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from generators.caption_filter import Accepted, CaptionFilter
from generators.concepts import ConceptBank, ConceptStream
from generators.language.base import Sampling
from generators.language.embedded_llm import embedded_llm_folder
from generators.language.transformers_backend import TransformersModel
from generators.prompts import build_prompt
from online_synclr.config import Config
from online_synclr.seeds import derive_seed
from recipes.embedded_image_model.llm import read_captions

INCARNATION = 1


@dataclass(frozen=True)
class Asked:
    """A caption with the draw it came from; `counter` numbers the draw in its stream."""

    caption: str
    concept: str
    template: str
    background: str
    relation: str
    counter: int


def write(config: Config, bank_file: Path, path: Path, *, count: int, seed: int) -> list[Asked]:
    """The first `count` accepted captions of a bank's stream; kept in `path` (JSON lines)."""
    asked = [Asked(**record) for record in read_captions(path)] if path.exists() else []
    if len(asked) >= count:
        return asked[:count]
    llm = TransformersModel(str(embedded_llm_folder()), sampling=Sampling.of(config.captions))
    bank = ConceptBank.load(bank_file)
    stream = ConceptStream(bank, seed, INCARNATION, 0)
    limits = config.captions.filter
    check = CaptionFilter(
        min_words=limits.min_words, max_words=limits.max_words,
        require_concept=limits.require_concept, book=bank.prompts,
    ).check  # fmt: skip
    counter = asked[-1].counter + 1 if asked else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in asked))
    with path.open("a") as file:
        while len(asked) < count:
            numbers = range(counter, counter + 4 * config.captions.batch_captions)
            counter = numbers.stop
            draws = [stream.draw(number) for number in numbers]
            seeds = [derive_seed("caption", seed, INCARNATION, 0, number) for number in numbers]
            written = llm.complete([build_prompt(draw, bank.prompts) for draw in draws], seeds)
            for draw, one, number in zip(draws, written, numbers, strict=True):
                verdict = check(one.text, draw, finished=one.finished)
                if isinstance(verdict, Accepted):
                    asked.append(
                        Asked(
                            verdict.caption,
                            draw.concept.name,
                            draw.template,
                            draw.background or "",
                            draw.relation or "",
                            number,
                        )
                    )
                    file.write(json.dumps(asdict(asked[-1])) + "\n")
            file.flush()
    llm.close()
    return asked[:count]
