"""Captions by the embedded LLM, written ahead of the training and for the evaluation.

They come from the product's own draws, prompts, language model and filter, so that the model
learns to draw what a run's captioner really asks for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from generators.caption_filter import Accepted, CaptionFilter
from generators.captioner import Captioned
from generators.concepts import ConceptBank, ConceptStream, Draw
from generators.language.base import Sampling
from generators.language.embedded_llm import embedded_llm_folder
from generators.language.transformers_backend import TransformersModel
from generators.prompts import build_prompt
from online_synclr.seeds import derive_seed
from recipes.embedded_image_model.config import CaptionConfig
from recipes.embedded_image_model.training import Clock

_INCARNATION = 0


class CaptionWriter:
    """The embedded LLM behind a bank's draws, prompts and filter: what a generator would write.

    check: the filter; it remembers what it has let through, so a writer is for one set of captions.
    """

    def __init__(
        self,
        bank: ConceptBank,
        check: CaptionFilter,
        sampling: Sampling,
        *,
        seed: int,
        incarnation: int,
    ) -> None:
        self._prompts, self._check = bank.prompts, check
        self._key = (seed, incarnation, 0)
        self._stream = ConceptStream(bank, *self._key)
        self._model = TransformersModel(str(embedded_llm_folder()), sampling=sampling)

    def draw(self, counter: int) -> Draw:
        """What caption `counter` is to be about."""
        return self._stream.draw(counter)

    def write(self, counters: Sequence[int]) -> Iterator[Captioned]:
        """The accepted captions of these draws, in order."""
        draws = [self.draw(counter) for counter in counters]
        seeds = [derive_seed("caption", *self._key, counter) for counter in counters]
        written = self._model.complete([build_prompt(d, self._prompts) for d in draws], seeds)
        for draw, one, counter in zip(draws, written, counters, strict=True):
            verdict = self._check.check(one.text, draw, finished=one.finished)
            if isinstance(verdict, Accepted):
                yield Captioned(draw, verdict.caption, counter)

    def close(self) -> None:
        """Let the model go."""
        self._model.close()


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
    writer = CaptionWriter(
        bank,
        CaptionFilter(max_words=config.max_words, book=bank.prompts),
        Sampling(temperature=config.temperature, top_p=config.top_p, max_tokens=32),
        seed=seed,
        incarnation=_INCARNATION,
    )
    counter = have[-1]["draw"] + 1 if have else 0
    clock = Clock(f"captions {path.name}", count.total() + missing(), count.total())
    with path.open("a", encoding="utf-8") as file:
        while missing() > 0:
            counters = []
            while len(counters) < config.batch:
                name = writer.draw(counter).concept.name
                # Once there are enough in all, only concepts that are short are asked for.
                if count.total() < each * len(wanted) or count[name] < least:
                    counters.append(counter)
                counter += 1
            for one in writer.write(counters):
                file.write(json.dumps(_record(one)) + "\n")
                count[one.draw.concept.name] += 1
            file.flush()
            clock.tick(count.total() - 1, f"{counter} asked, {missing()} missing")
    writer.close()


def _record(one: Captioned) -> dict[str, object]:
    return {
        "draw": one.counter,
        "concept": one.draw.concept.name,
        "caption": one.caption,
        "background": one.draw.background,
        "template": one.draw.template,
    }


def read_captions(path: Path) -> list[dict]:
    """The records written to `path`; an unfinished last line is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
