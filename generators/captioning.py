"""Where the captions of one engine start come from, and the recipes made of them."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from generators.caption_filter import CaptionFilter
from generators.captioner import Captioned, Captioner
from generators.concepts import ConceptBank, ConceptStream
from generators.counters import Counters
from generators.language.base import LanguageModel
from generators.ledger_captions import Recorded, ReplayedRecipes, build_ledger_captions
from generators.prompts import build_prompt
from generators.render_loop import CaptionSource
from generators.spec import EngineSpec
from online_synclr.seeds import derive_seed
from online_synclr.stream.group import Recipe
from online_synclr.stream.messages import Progress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Captions(Generic[T]):
    """A source of captions with what turns one into a recipe, given the renderer's fingerprint.

    `fingerprint` names the writer; `close` ends what `start` has begun. `on_progress` is told how
    far the run is, by any thread.
    """

    source: CaptionSource[T]
    recipe_of: Callable[[T, str], Recipe]
    fingerprint: str
    start: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    on_progress: Callable[[Progress], None] = lambda progress: None


def written_captions(
    spec: EngineSpec,
    bank: ConceptBank,
    model: LanguageModel,
    counters: Counters,
    say: Callable[[str], None],
) -> Captions[Captioned]:
    """Captions that a language model writes for draws from a concept bank."""
    captioner = build_captioner(spec, bank, model, counters)

    def follow(progress: Progress) -> None:
        captioner.set_shares(progress.shares)
        if progress.shares:
            say(describe_shares(progress, {source.name for source in bank.sources}))

    return Captions(
        source=captioner,
        recipe_of=lambda captioned, image_fingerprint: recipe_of(
            captioned,
            spec,
            llm_fingerprint=model.fingerprint,
            image_fingerprint=image_fingerprint,
        ),
        fingerprint=model.fingerprint,
        start=captioner.start,
        close=captioner.close,
        on_progress=follow,
    )


def describe_shares(progress: Progress, own: Set[str]) -> str:
    """A line for the log: the shares, and how a bank with the sources `own` fits them."""
    told = progress.shares
    shares = ", ".join(f"{name} {share:.3g}" for name, share in sorted(told.items()))
    line = f"shares of the sources from step {progress.step}: {shares}"
    if not told.keys() & own:
        return f"{line}; this generator's bank has none of these and keeps its own shares"
    absent, unknown = sorted(told.keys() - own), sorted(own - told.keys())
    if absent:
        line += f"; this generator's bank lacks {', '.join(absent)}"
    if unknown:
        line += f"; only this generator's bank has {', '.join(unknown)}, now unused"
    return line


def recorded_captions(
    spec: EngineSpec, counters: Counters, say: Callable[[str], None]
) -> Captions[Recorded]:
    """Captions of an earlier run's ledger.

    Raises:
        SetupError: it cannot be used.
    """
    return Captions(
        source=build_ledger_captions(spec, counters),
        recipe_of=ReplayedRecipes(spec, say),
        fingerprint=f"ledger:{spec.config.captions.ledger}",
    )


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
        # Half, so that waiting for it is not taken for an engine that hangs.
        shares_within_s=spec.config.generators.stall_s / 2,
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
