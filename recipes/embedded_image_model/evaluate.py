"""Measure the shipped folder: is what a caption names recognised, and do a group's images differ?

Every picture is rendered by the stock pipeline from the folder, with the demo's steps and guidance,
on captions the LLM wrote that no training saw. Beside each group stands a group of real
compositions that fulfil the same caption, from icons' poses and background drawings of their own
seeds, and the same after the codec.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from online_synclr.precision import fast_dtype
from recipes.embedded_image_model import cost, export
from recipes.embedded_image_model.captions import free_draft, with_unknown_word
from recipes.embedded_image_model.compose import Composer, Wish
from recipes.embedded_image_model.concepts import NAMES
from recipes.embedded_image_model.config import Config, DemoConfig
from recipes.embedded_image_model.judge import Judge

PIXELS = 64


def render(
    pipeline: StableDiffusionPipeline, texts: list[str], seeds: list[int], demo: DemoConfig
) -> torch.Tensor:
    """Images (B, 3, 64, 64) in [0, 1]; image i depends on its caption and `seeds[i]` alone."""
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = pipeline(
        texts,
        num_inference_steps=demo.steps,
        guidance_scale=demo.guidance,
        height=PIXELS,
        width=PIXELS,
        generator=noise,
        output_type="pt",
    )
    return made.images.float()


def groups(
    pipeline: StableDiffusionPipeline, texts: list[str], demo: DemoConfig, *, seed: int
) -> Iterator[torch.Tensor]:
    """For every caption its group of images (G, 3, 64, 64), rendered several captions at once."""
    at_once = 8
    for start in range(0, len(texts), at_once):
        chunk = texts[start : start + at_once]
        repeated = [text for text in chunk for _ in range(demo.group)]
        first = seed + start * demo.group
        images = render(pipeline, repeated, list(range(first, first + len(repeated))), demo)
        yield from images.split(demo.group)


def spread(points_GD: torch.Tensor) -> float:
    """Mean Euclidean distance between the members of a group."""
    return torch.pdist(points_GD).mean().item()


def pick(records: list[dict], each: int) -> tuple[list[dict], list[dict]]:
    """The first `each` captions asked for every concept, and all others."""
    taken: list[dict] = []
    left: list[dict] = []
    seen: Counter[str] = Counter()
    for record in records:
        seen[record["concept"]] += 1
        (taken if seen[record["concept"]] <= each else left).append(record)
    return taken, left


@dataclass
class Tally:
    """What the judge says of one kind of pictures, group by group.

    concept, background: one truth value an image; spread: sums over groups; groups: their number.
    """

    concept: list[bool] = field(default_factory=list)
    background: list[bool] = field(default_factory=list)
    spread: Counter[str] = field(default_factory=Counter)
    groups: int = 0

    def add(self, referee: Judge, images_G3SS: torch.Tensor, wish: Wish) -> torch.Tensor:
        """Judge one group by its wish; the judge's concepts (G,)."""
        features = referee.features(images_G3SS)
        guesses = referee.concept(features).argmax(1)
        self.concept += (guesses == wish.concept).tolist()
        if wish.background is not None:
            self.background += (referee.background(features).argmax(1) == wish.background).tolist()
        self.spread["pixels"] += spread(images_G3SS.flatten(1))
        self.spread["features"] += spread(features)
        self.groups += 1
        return guesses

    def mean_spread(self, space: str) -> float:
        """Mean pairwise distance within a group."""
        return self.spread[space] / self.groups


@dataclass(frozen=True)
class Task:
    """Captions to judge: what the LLM was asked for, and what the captions say.

    A caption that names nothing of ours (`unreadable` of them) is judged by what was asked.
    """

    records: list[dict]
    wishes: list[Wish]
    unreadable: int


def read(records: list[dict]) -> Task:
    """The task that captions set."""
    drafts = [free_draft(r["concept"], r["caption"], r["background"]) for r in records]
    wishes = [
        Wish(concept=NAMES.index(record["concept"])) if draft is None else draft.wish
        for record, draft in zip(records, drafts, strict=True)
    ]
    return Task(records, wishes, drafts.count(None))


@dataclass
class Drawn:
    """What the judge says of the generated pictures of a task.

    A picture shows the right concept if the judge's first guess is the first thing that its
    caption names; `asked` counts the concept the caption was asked for instead.
    """

    tally: Tally = field(default_factory=Tally)
    asked: list[bool] = field(default_factory=list)
    by_concept: dict[str, list[bool]] = field(default_factory=dict)
    by_template: dict[str, list[bool]] = field(default_factory=dict)
    mistaken: Counter[str] = field(default_factory=Counter)

    def add(self, referee: Judge, images_G3SS: torch.Tensor, record: dict, wish: Wish) -> None:
        """Judge the group of one caption."""
        guesses = self.tally.add(referee, images_G3SS, wish)
        right = (guesses == wish.concept).tolist()
        name = NAMES[wish.concept]
        self.by_concept.setdefault(name, []).extend(right)
        self.by_template.setdefault(record["template"], []).extend(right)
        self.asked += (guesses == NAMES.index(record["concept"])).tolist()
        wrong = guesses[guesses != wish.concept].tolist()
        self.mistaken.update(f"{name} taken for {NAMES[guess]}" for guess in wrong)


@torch.no_grad()
def judge_generated(
    pipeline: StableDiffusionPipeline, referee: Judge, task: Task, demo: DemoConfig, *, seed: int
) -> Drawn:
    """Render every caption's group and judge it."""
    drawn = Drawn()
    captions = [record["caption"] for record in task.records]
    images_of = groups(pipeline, captions, demo, seed=seed)
    for record, wish, images in zip(task.records, task.wishes, images_of, strict=True):
        drawn.add(referee, images, record, wish)
    return drawn


@torch.no_grad()
def judge_real(
    pipeline: StableDiffusionPipeline,
    referee: Judge,
    composer: Composer,
    task: Task,
    demo: DemoConfig,
) -> tuple[Tally, Tally]:
    """Judge real compositions that fulfil the captions: as they are, and after the codec."""
    real, coded = Tally(), Tally()
    for wish in task.wishes:
        scenes = composer.compose([wish] * demo.group).images_B3SS
        real.add(referee, scenes, wish)
        coded.add(referee, recode(pipeline, scenes), wish)
    return real, coded


def compare(task: Task, drawn: Drawn, real: Tally, coded: Tally) -> dict:
    """The figures of a task."""
    made = drawn.tally
    shares = {name: _share(row) for name, row in drawn.by_concept.items()}
    return {
        "concepts": len({record["concept"] for record in task.records}),
        "captions": len(task.records),
        "images": len(made.concept),
        "images_with_background": len(made.background),
        "unreadable_captions": task.unreadable,
        "concept_top1": _compared(made.concept, real.concept, coded.concept),
        "background_top1": _compared(made.background, real.background, coded.background),
        "asked_top1": _share(drawn.asked),
        "top1_by_template": {name: _share(r) for name, r in sorted(drawn.by_template.items())},
        "top1_by_concept": dict(sorted(shares.items(), key=lambda item: item[1])),
        "mistaken": dict(drawn.mistaken.most_common(12)),
        "spread": {
            space: {
                "generated": round(made.mean_spread(space), 4),
                "real": round(real.mean_spread(space), 4),
                "ratio": round(made.mean_spread(space) / real.mean_spread(space), 4),
            }
            for space in made.spread
        },
    }


def _share(truths: list[bool]) -> float:
    return round(sum(truths) / len(truths), 4)


def _compared(made: list[bool], real: list[bool], coded: list[bool]) -> dict[str, float]:
    """Top-1 on generated pictures, real compositions, those after the codec, and the ratio."""
    return {
        "generated": _share(made),
        "real": _share(real),
        "real_after_codec": _share(coded),
        # No figure where the judge knows nothing, as after the few steps of `--quick`.
        "ratio": round(sum(made) / len(made) * len(real) / max(1, sum(real)), 4),
    }


@torch.no_grad()
def recode(pipeline: StableDiffusionPipeline, images_B3SS: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] after encoding and decoding by the shipped codec."""
    latent = pipeline.vae.encode((images_B3SS * 2 - 1).to(pipeline.dtype)).latent_dist.mode()
    return pipeline.vae.decode(latent).sample.float().add(1).div(2).clamp(0, 1)


def by_steps(
    pipeline: StableDiffusionPipeline,
    referee: Judge,
    composer: Composer,
    task: Task,
    demo: DemoConfig,
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """How top-1 and spread (features) change with the number of denoising steps."""
    real, _ = judge_real(pipeline, referee, composer, task, demo)
    table = {}
    for steps in demo.steps_tried:
        tried = dataclasses.replace(demo, steps=steps)
        made = judge_generated(pipeline, referee, task, tried, seed=seed).tally
        table[str(steps)] = {
            "concept_top1": _share(made.concept),
            "background_top1": _share(made.background),
            "spread_ratio": round(made.mean_spread("features") / real.mean_spread("features"), 4),
        }
    return table


def unknown_words_top1(
    pipeline: StableDiffusionPipeline, referee: Judge, task: Task, demo: DemoConfig, *, seed: int
) -> float:
    """Top-1 when every caption gets a word without meaning: they must do no harm."""
    rng = random.Random(seed)
    records = [{**r, "caption": with_unknown_word(r["caption"], rng)} for r in task.records]
    changed = dataclasses.replace(task, records=records)
    return _share(judge_generated(pipeline, referee, changed, demo, seed=seed).tally.concept)


def evaluate(
    config: Config, referee: Judge, composer: Composer, records: list[dict], work: Path
) -> dict:
    """All figures, into `evaluation.json` of the shipped folder; their captions beside the judge.

    records: captions the LLM wrote, which the training leaves out even where a template makes the
    same. The first of each concept are for the figures; the rest, on which sampler and guidance
    may be chosen, for the table of steps.
    """
    out = Path(config.out)
    dtype = fast_dtype(torch.device("cpu"))  # the precision in which the product renders
    pipeline = export.load(out, dtype=dtype)
    chosen, left = pick(records, config.demo.captions_each)
    split = Path(config.judge.folder) / "captions.jsonl"
    split.write_text("".join(json.dumps(r) + "\n" for r in chosen), encoding="utf-8")
    task, spare = read(chosen), read(pick(left, 1)[0])
    drawn = judge_generated(pipeline, referee, task, config.demo, seed=config.seed * 100_000)
    real, coded = judge_real(pipeline, referee, composer, task, config.demo)
    report = compare(task, drawn, real, coded)
    spare_seed = config.seed * 200_000
    report["by_steps"] = by_steps(pipeline, referee, composer, spare, config.demo, seed=spare_seed)
    report["unknown_words_top1"] = unknown_words_top1(
        pipeline, referee, spare, config.demo, seed=spare_seed
    )
    report["dtype"] = str(dtype).removeprefix("torch.")
    report["steps"], report["guidance"] = config.demo.steps, config.demo.guidance
    report["scheduler"] = type(pipeline.scheduler).__name__
    report["vae_psnr_db"] = json.loads((work / "psnr.json").read_text())["psnr_db"]
    report["folder_mb"] = round(export.folder_bytes(out) / 1e6, 2)
    report["parameters_m"] = {
        name: round(sum(p.numel() for p in getattr(pipeline, name).parameters()) / 1e6, 2)
        for name in ("vae", "text_encoder", "unet")
    }
    report["cost"] = cost.measure(out, config.demo)
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
