"""The texts that state figures: model card and report, written from `evaluation.json` alone."""

from __future__ import annotations

import json
from pathlib import Path

from generators.fingerprint import model_identity
from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.codes import COMPONENTS
from recipes.embedded_image_model.concepts import NAMES, OFFERED
from recipes.embedded_image_model.config import Config
from recipes.embedded_image_model.sources import SOURCES
from recipes.embedded_image_model.vae import LATENT_CHANNELS

CARD = """---
license: other
library_name: diffusers
pipeline_tag: text-to-image
---
# Embedded image model

A text-to-image model of {parameters} million parameters that draws 64 px pictures of
{concepts} things, in three artists' hands and on {num_backgrounds} backgrounds, from short
captions. It lets Online SynCLR run whole, its real image renderer included, on any machine, without
a download. It is small on purpose: it is meant to draw the things below and no others.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(
    "{folder}", safety_checker=None
)
images = pipeline(
    ["a red fox in a snowy field"] * 4,
    num_inference_steps={steps},
    guidance_scale={guidance},
    height=64,
    width=64,
).images
```

## What it draws

Things: {names}.

Backgrounds: {backgrounds}.

## Figures

{figures}

Captions were written by SmolLM2-135M-Instruct through the product's captioner and seen by no
training. The judge is a classifier of concept and background, trained on real compositions only and
kept in `recipes/embedded_image_model/judge`. A picture counts as right if the judge's first guess
is the first thing its caption names. Real compositions fulfil the same captions, with background
drawings that nothing was trained on. Spread: mean pairwise distance of the images of one caption.

## How it was made

Icons of three artists in free pose, size, place and colour over drawn backgrounds; captions from
templates and from the LLM. Three networks, all trained from nothing on two CPU cores: a codec
(AutoencoderKL, 64 px to 8 x 8 x {latent_channels}); a CLIP text encoder that is taught to say, in
32 slots behind the words, what the named things look like (each icon as 4 x 4 patches of
{components} principal components an artist), and which background, place, size and colour are
named; a UNet (v-prediction) that paints what the slots say. The looks come from the text encoder so
that the UNet need not learn every icon by itself.

    python -m recipes.embedded_image_model --config recipes/embedded_image_model/config.yaml

## Limits

Fine detail is lost. Of two things the second is small and often vague. Counts beyond two, colours
that no training picture showed, and actions are not drawn; a word it does not know hardly matters.
The judge says which thing and which background is drawn, not whether colour, place or partner is
right.

## Sources and licences

The weights derive from these icons; whoever ships them passes these notices on.

{sources}

Twemoji graphics are licensed under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/); they
were rasterised, scaled, recoloured, turned, mirrored and composed. Notices, and the texts of MIT
and Apache-2.0, are in `LICENSES/`.
"""


def figures(report: dict) -> str:
    """The figures as a table."""
    counted = f"{report['images']} images, {report['captions']} captions"
    templates = (f"{k} {v:.3f}" for k, v in report["top1_by_template"].items())
    sampler = f"{report['steps']} steps, guidance {report['guidance']}, {report['dtype']}"
    sizes = (f"{k} {v}M" for k, v in report["parameters_m"].items())
    spread = report["spread"]
    rows = {
        "concepts, backgrounds": f"{report['concepts']}, {len(BACKGROUNDS)}",
        "judged": f"{counted}; {report['images_with_background']} images name a background",
        "concept top-1": _compared(report["concept_top1"]),
        "background top-1": _compared(report["background_top1"]),
        "concept top-1 by kind of caption": ", ".join(templates),
        "top-1 if the concept asked for must come first": f"{report['asked_top1']:.3f}",
        "spread in a group, judge's features": _spread(spread["features"]),
        "spread in a group, pixels": _spread(spread["pixels"]),
        "codec PSNR on compositions": f"{report['vae_psnr_db']:.1f} dB",
        "sampler": f"{report['scheduler']}, {sampler}",
        "folder": f"{report['folder_mb']} MB; {', '.join(sizes)}",
    }
    lines = [f"| {what} | {figure} |" for what, figure in rows.items()]
    return "\n".join(["| what | figure |", "| --- | --- |", *lines])


def _compared(row: dict[str, float]) -> str:
    return (
        f"{row['generated']:.3f}; real compositions {row['real']:.3f}, ratio {row['ratio']:.3f} "
        f"(real ones after the codec {row['real_after_codec']:.3f})"
    )


def _spread(row: dict[str, float]) -> str:
    return f"{row['generated']:.2f}; real compositions {row['real']:.2f}, ratio {row['ratio']:.3f}"


def costs(report: dict) -> str:
    """Speed and memory as a table, with the machine they were measured on."""
    cost = report["cost"]
    lines = ["| precision, threads | images/s: median (least - most) | peak memory, MB |"]
    lines.append("| --- | --- | --- |")
    for name, row in cost["rows"].items():
        rate = f"{row['images_per_s']} ({row['least']} - {row['most']})"
        lines.append(f"| {name} | {rate} | {row['peak_memory_mb']} |")
    where = (
        f"{cost['machine']}, {cost['cores']} cores, load {cost['load_average']} before; batches of "
        f"{cost['batch']} images; memory is the whole process with torch and diffusers. The "
        "product renders in bf16 where the processor multiplies it faster."
    )
    return "\n".join([*lines, "", where])


def steps_table(report: dict) -> str:
    """How quality falls with fewer steps."""
    lines = ["| steps | concept top-1 | background top-1 | spread ratio, features |"]
    lines.append("| --- | --- | --- | --- |")
    for steps, row in report["by_steps"].items():
        lines.append(
            f"| {steps} | {row['concept_top1']:.3f} | {row['background_top1']:.3f} | "
            f"{row['spread_ratio']:.3f} |"
        )
    return "\n".join(lines)


def write(config: Config) -> None:
    """Write the model card and the report from the shipped folder's `evaluation.json`."""
    (Path(config.out) / "README.md").write_text(model_card(config), encoding="utf-8")
    report = Path(config.report)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(document(config), encoding="utf-8")


def _evaluation(config: Config) -> dict:
    evaluation: dict = json.loads((Path(config.out) / "evaluation.json").read_text("utf-8"))
    return evaluation


def model_card(config: Config) -> str:
    """The README of the model's folder."""
    report = _evaluation(config)
    sources = "\n".join(
        f"- {source.artist}; {source.licence}; {source.home} "
        f"(npm `{source.package}` {source.version})"
        for source in SOURCES
    )
    return CARD.format(
        parameters=round(sum(report["parameters_m"].values()), 1), concepts=report["concepts"],
        folder=config.out, steps=report["steps"], guidance=report["guidance"],
        num_backgrounds=len(BACKGROUNDS), latent_channels=LATENT_CHANNELS, components=COMPONENTS,
        names=", ".join(NAMES[index] for index in OFFERED),
        backgrounds=", ".join(background.phrase for background in BACKGROUNDS),
        figures=f"{figures(report)}\n\n{costs(report)}", sources=sources,
    )  # fmt: skip


def _notes(config: Config) -> str:
    """What was written by hand about these weights; nothing if it is about others."""
    if not config.notes:
        return ""
    text = Path(config.notes).read_text(encoding="utf-8")
    identity = model_identity(config.out)
    if identity not in text:
        print(f"{config.notes} is about other weights than {identity}: left out")
        return ""
    return f"\n## About these weights\n\n{text}"


def document(config: Config) -> str:
    """The report: figures, weakest concepts, most frequent mistakes, the sheet."""
    report = _evaluation(config)
    weakest = ", ".join(f"{k} {v:.2f}" for k, v in list(report["top1_by_concept"].items())[:12])
    mistakes = ", ".join(f"{k} ({v})" for k, v in report["mistaken"].items())
    sheet = Path(config.sheet).relative_to(Path(config.report).parent)
    notes = _notes(config)
    return f"""# The embedded image model

Written by the recipe from `evaluation.json` in the model's folder; do not edit by hand. What the
model is, what it draws and its licences: [model card](../{config.out}/README.md).

{figures(report)}

## Fewer and more steps

One caption a concept, none of those above:

{steps_table(report)}

With a word of random letters put into each of these captions, at {report["steps"]} steps: concept
top-1 {report["unknown_words_top1"]:.3f}.

## Speed and memory

{costs(report)}

## Failures

Weakest concepts: {weakest}.

Most frequent mistakes: {mistakes}.

## Samples

![groups of one caption each]({sheet})

Each strip is one group: the images of one caption, which the trainer treats as positives of each
other. The first caption of every {config.sheet_every}th concept; nothing was picked or left out.

## Making it again

    python -m recipes.embedded_image_model --config recipes/embedded_image_model/config.yaml

It needs `make install-test` and npm. Every stage keeps its output in `{Config.work}` and is
skipped when that is there. `--quick` runs all of them in a few minutes at a size that draws
nothing useful.
{notes}"""
