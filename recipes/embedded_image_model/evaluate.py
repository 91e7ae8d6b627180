"""Measure the shipped folder: is what a caption names recognised, and do a group's images differ?

Every picture is rendered by the stock pipeline from the folder, with the demo's steps and guidance,
on captions the LLM wrote that no training saw.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from recipes.embedded_image_model import export, judge
from recipes.embedded_image_model.captions import free_draft
from recipes.embedded_image_model.compose import Composer, Wish
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES
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


@torch.no_grad()
def describe(referee: Judge, images_G3SS: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two fixed spaces: pixels, and the judge's penultimate features."""
    return {"pixels": images_G3SS.flatten(1), "features": referee.features(images_G3SS)}


def real_spread(referee: Judge, composer: Composer, wishes: list[Wish], *, group: int) -> dict:
    """Mean spread of real compositions: for every wish, `group` scenes that all fulfil it."""
    totals = {"pixels": 0.0, "features": 0.0}
    for wish in wishes:
        images = composer.compose([wish] * group).images_B3SS
        for space, points in describe(referee, images).items():
            totals[space] += spread(points) / len(wishes)
    return totals


def unseen(records: list[dict], training: list[dict]) -> list[dict]:
    """The captions that are no training caption, whatever their case and full stop."""
    known = {_plain(record["caption"]) for record in training}
    return [record for record in records if _plain(record["caption"]) not in known]


def _plain(caption: str) -> str:
    """A caption without case and full stop."""
    return caption.lower().rstrip(".")


def pick(records: list[dict], each: int) -> list[dict]:
    """The first `each` captions of every concept."""
    taken: list[dict] = []
    for concept in range(len(CONCEPTS)):
        taken += [r for r in records if r["concept"] == concept][:each]
    return taken


@torch.no_grad()
def measure(
    pipeline: StableDiffusionPipeline,
    referee: Judge,
    composer: Composer,
    records: list[dict],
    demo: DemoConfig,
    *,
    seed: int,
) -> dict:
    """Recognition and diversity over the groups of all captions in `records`."""
    chosen = pick(records, demo.captions_each)
    totals = {"pixels": 0.0, "features": 0.0}
    hits: list[list[bool]] = [[] for _ in CONCEPTS]
    mistaken: dict[str, int] = {}
    by_template: dict[str, list[bool]] = {}
    images_of = groups(pipeline, [record["caption"] for record in chosen], demo, seed=seed)
    for record, images in zip(chosen, images_of, strict=True):
        guesses = referee(images).argmax(1).tolist()
        right = [guess == record["concept"] for guess in guesses]
        hits[record["concept"]] += right
        by_template.setdefault(record["template"], []).extend(right)
        for guess in guesses:
            if guess != record["concept"]:
                pair = f"{NAMES[record['concept']]} taken for {NAMES[guess]}"
                mistaken[pair] = mistaken.get(pair, 0) + 1
        for space, points in describe(referee, images).items():
            totals[space] += spread(points) / len(chosen)
    wishes = [free_draft(r["concept"], r["caption"], r["background"]).wish for r in chosen]
    real = real_spread(referee, composer, wishes, group=demo.group)
    flat = [right for row in hits for right in row]
    shares = {NAMES[k]: round(sum(row) / len(row), 3) for k, row in enumerate(hits) if row}
    worst = sorted(mistaken.items(), key=lambda item: -item[1])[:12]
    return {
        "concepts": len(CONCEPTS),
        "captions": len(chosen),
        "images": len(flat),
        "top1": round(sum(flat) / len(flat), 4),
        "top1_by_template": {
            name: round(sum(row) / len(row), 4) for name, row in sorted(by_template.items())
        },
        "top1_by_concept": dict(sorted(shares.items(), key=lambda item: item[1])),
        "mistaken": dict(worst),
        "spread_ratio": {s: round(totals[s] / real[s], 4) for s in totals},
        "spread_generated": {s: round(totals[s], 4) for s in totals},
        "spread_real": {s: round(real[s], 4) for s in totals},
    }


@torch.no_grad()
def recode(pipeline: StableDiffusionPipeline, images_B3SS: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] after encoding and decoding by the shipped codec."""
    latent = pipeline.vae.encode(images_B3SS * 2 - 1).latent_dist.mode()
    return pipeline.vae.decode(latent).sample.add(1).div(2).clamp(0, 1)


def speed(pipeline: StableDiffusionPipeline, demo: DemoConfig, *, threads: int) -> float:
    """Images a second, in calls of eight groups, after one warm-up call."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    texts = [f"a {name}" for name in NAMES[:8] for _ in range(demo.group)]
    render(pipeline, texts, list(range(len(texts))), demo)
    begin = time.perf_counter()
    for _ in range(3):
        render(pipeline, texts, list(range(len(texts))), demo)
    rate = 3 * len(texts) / (time.perf_counter() - begin)
    torch.set_num_threads(before)
    return round(rate, 1)


def evaluate(
    config: Config, referee: Judge, composer: Composer, records: list[dict], work: Path
) -> dict:
    """All figures, written to `evaluation.json` in the shipped folder.

    records: captions the LLM wrote and no training saw.
    """
    out = Path(config.out)
    pipeline = export.load(out)
    report = measure(
        pipeline, referee, composer, records, config.demo,
        seed=config.seed * 100_000,
    )  # fmt: skip
    report["judge_accuracy_real"] = round(
        judge.accuracy(referee, composer, count=2048, seed=config.seed + 999), 4
    )
    report["judge_accuracy_codec"] = round(
        judge.accuracy(
            referee, composer, count=1024, seed=config.seed + 999,
            through=lambda images: recode(pipeline, images),
        ), 4,
    )  # fmt: skip
    report["steps"], report["guidance"] = config.demo.steps, config.demo.guidance
    report["scheduler"] = type(pipeline.scheduler).__name__
    report["images_per_s"] = {
        f"{threads} threads": speed(pipeline, config.demo, threads=threads) for threads in (1, 2)
    }
    report["machine"] = _processor()
    report["load_average"] = round(os.getloadavg()[0], 1)
    report["vae_psnr_db"] = json.loads((work / "psnr.json").read_text())["psnr_db"]
    report["folder_mb"] = round(export.folder_bytes(out) / 1e6, 2)
    report["parameters_m"] = {
        name: round(sum(p.numel() for p in getattr(pipeline, name).parameters()) / 1e6, 2)
        for name in ("vae", "text_encoder", "unet")
    }
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
