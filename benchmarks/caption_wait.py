"""How long the renderer waits for captions, with the engine's own captioner, loop and models.

    python -m benchmarks.caption_wait                    # both embedded models on the same cores
    python -m benchmarks.caption_wait --captions template --device cuda

One engine without a stream: whatever passes the quality gate is taken at once, so that nothing but
captions can hold the renderer up. The wait before the first batch is told apart: until then the
language model is the only one at work. Then the run is cut into windows of batches.
"""

import argparse
import itertools
import os
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.measuring import REPEATS, describe, spread, table
from generators.caption_filter import CaptionFilter
from generators.captioner import Captioned, Captioner
from generators.concepts import ConceptBank, ConceptStream
from generators.counters import Counters
from generators.images.factory import create_renderer
from generators.images.quality_gate import QualityGate
from generators.language.factory import create_language_model
from generators.prompts import build_prompt
from generators.render_loop import RenderLoop
from online_synclr.config import load_config
from online_synclr.config.schema import Config
from online_synclr.paths import CONFIGS_DIR
from online_synclr.stream.group import Group, Recipe

Values = dict[str, float]


class Taker:
    """Takes every group at once."""

    def put(self, group: Group, timeout_s: float) -> bool:
        """See `GroupTaker.put`."""
        return True

    def wait_sent(self, timeout_s: float) -> bool:
        """See `GroupTaker.wait_sent`."""
        return True


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    overrides = [f"captions.backend={options.captions}", *options.overrides]
    config = load_config(CONFIGS_DIR / "demo.yaml", overrides)
    seen = run(config, options)
    first, *ends = seen[:: options.batches]
    pairs = list(itertools.pairwise([first, *ends]))
    print(
        table(
            ("figure", f"{len(pairs)} windows of {options.batches} batches"),
            [
                ("renderer waits for captions", percents(pairs, "wait_s/captions")),
                ("renderer at work", percents(pairs, "busy_s/render")),
                ("quality gate", percents(pairs, "busy_s/gate")),
                ("captioner waits for room", percents(pairs, "wait_s/caption_queue_full")),
                ("groups/s", f"{spread([rate(pair, 'groups_rendered') for pair in pairs]):.2f}"),
                (
                    "captions/s",
                    f"{spread([rate(pair, 'captions_accepted') for pair in pairs]):.2f}",
                ),
            ],
        )
    )
    print(f"\nbefore the first batch was done: {first['wait_s/captions']:.2f} s")
    print(f"{options.threads} threads, {config.images.batch_groups} captions a batch")
    print(describe("torch", "diffusers", "transformers"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--captions", default="auto", help="back end of the language model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--windows", type=int, default=REPEATS)
    parser.add_argument("--batches", type=int, default=2, help="batches of a window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="settings over demo.yaml's, as key=value")
    return parser.parse_args(arguments)


def run(config: Config, options: argparse.Namespace) -> list[Values]:
    """All counters after each batch of the run."""
    counters = Counters()
    bank = ConceptBank.load(config.captions.bank)
    model = create_language_model(config.captions, device=options.device, say=print)
    renderer = create_renderer(config.images, device=options.device, say=print)
    captioner = Captioner(
        draws=ConceptStream(bank, config.run.seed, 1, 0),
        prompt_of=lambda draw: build_prompt(draw, bank.prompts),
        seed_of=lambda counter: counter,
        model=model,
        caption_filter=CaptionFilter(max_words=config.captions.filter.max_words, book=bank.prompts),
        batch_captions=config.captions.batch_captions,
        queue_captions=config.captions.queue_captions,
        counters=counters,
    )
    seen: list[Values] = []

    def stopping() -> bool:
        now = counters.snapshot()
        if now.get("groups_rendered", 0) > (seen[-1]["groups_rendered"] if seen else 0):
            seen.append(now)
        return len(seen) > options.windows * options.batches

    images = config.images
    shape = (images.per_caption, 3, images.send_px, images.send_px)
    loop: RenderLoop[Captioned] = RenderLoop(
        captions=captioner,
        renderer=renderer,
        sender=Taker(),
        recipe_of=partial(recipe_of, num_images=images.per_caption),
        batch_groups=images.batch_groups,
        gate=QualityGate(shape, images.min_contrast),
        drain_s=0.0,
        counters=counters,
        stopping=stopping,
        ended=lambda: False,
    )
    captioner.start()
    loop.run()
    captioner.close()
    return seen


def recipe_of(captioned: Captioned, num_images: int) -> Recipe:
    return Recipe(
        caption=captioned.caption,
        concept=captioned.draw.concept.name,
        source=captioned.draw.concept.source,
        template=captioned.draw.template,
        background=captioned.draw.background or "",
        relation=captioned.draw.relation or "",
        run_seed=0,
        incarnation=1,
        stream=0,
        counter=captioned.counter,
        num_images=num_images,
        llm_fingerprint="benchmark",
        image_fingerprint="benchmark",
    )


def percents(pairs: Sequence[tuple[Values, Values]], name: str) -> str:
    return f"{spread([100 * rate(pair, name) for pair in pairs]):.2f} % of the time"


def rate(pair: tuple[Values, Values], name: str) -> float:
    """Growth of a counter for each second of a window."""
    before, after = pair
    grown = after.get(name, 0.0) - before.get(name, 0.0)
    return grown / (after["elapsed_s"] - before["elapsed_s"])


if __name__ == "__main__":
    main()
    # The captioner's thread may still be inside its model.
    os._exit(0)
