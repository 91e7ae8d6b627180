"""Captions of one version's concept bank, written as a run's generator writes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from generators.caption_filter import CaptionFilter
from generators.concepts import ConceptBank
from generators.language.base import Sampling
from online_synclr.config import Config
from recipes.embedded_image_model.llm import CaptionWriter, read_captions

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
    bank = ConceptBank.load(bank_file)
    limits = config.captions.filter
    check = CaptionFilter(
        min_words=limits.min_words, max_words=limits.max_words,
        require_concept=limits.require_concept, book=bank.prompts,
    )  # fmt: skip
    sampling = Sampling.of(config.captions)
    writer = CaptionWriter(bank, check, sampling, seed=seed, incarnation=INCARNATION)
    counter = asked[-1].counter + 1 if asked else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in asked), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        while len(asked) < count:
            counters = range(counter, counter + 4 * config.captions.batch_captions)
            counter = counters.stop
            for one in writer.write(counters):
                asked.append(
                    Asked(
                        one.caption,
                        one.draw.concept.name,
                        one.draw.template,
                        one.draw.background or "",
                        one.draw.relation or "",
                        one.counter,
                    )
                )
                file.write(json.dumps(asdict(asked[-1])) + "\n")
            file.flush()
    writer.close()
    return asked[:count]
