"""Builds the captioner of one engine start."""

from generators.caption_filter import CaptionFilter
from generators.captioner import Captioned, Captioner
from generators.concepts import ConceptBank, ConceptStream
from generators.counters import Counters
from generators.language.base import LanguageModel
from generators.prompts import build_prompt
from generators.spec import EngineSpec
from online_synclr.seeds import derive_seed
from online_synclr.stream.group import Recipe


def build_captioner(
    spec: EngineSpec, bank: ConceptBank, model: LanguageModel, counters: Counters
) -> Captioner:
    """A captioner for this start's stream of draws; not started yet."""
    settings = spec.config.captions
    key = (spec.config.run.seed, spec.role.incarnation, spec.stream)
    return Captioner(
        draws=ConceptStream(bank, *key),
        prompt_of=lambda draw: build_prompt(draw, bank.prompts),
        seed_of=lambda counter: derive_seed("caption", *key, counter),
        model=model,
        caption_filter=CaptionFilter(
            min_words=settings.filter.min_words,
            max_words=settings.filter.max_words,
            require_concept=settings.filter.require_concept,
            history_size=settings.filter.history,
            book=bank.prompts,
        ),
        batch_captions=settings.batch_captions,
        queue_captions=settings.queue_captions,
        counters=counters,
    )


def recipe_of(
    captioned: Captioned, spec: EngineSpec, *, llm_fingerprint: str, image_fingerprint: str
) -> Recipe:
    """What renders this caption, now and again later."""
    draw = captioned.draw
    return Recipe(
        caption=captioned.caption,
        concept=draw.concept.name,
        source=draw.concept.source,
        template=draw.template,
        background=draw.background or "",
        relation=draw.relation or "",
        run_seed=spec.config.run.seed,
        incarnation=spec.role.incarnation,
        stream=spec.stream,
        counter=captioned.counter,
        num_images=spec.config.images.per_caption,
        llm_fingerprint=llm_fingerprint,
        image_fingerprint=image_fingerprint,
    )
