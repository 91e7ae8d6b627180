"""The texts that state figures: model card and report, written from `evaluation.json` alone."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.concepts import NAMES
from recipes.embedded_image_model.config import Config
from recipes.embedded_image_model.sources import SOURCES

CARD = """---
license: other
library_name: diffusers
pipeline_tag: text-to-image
---
# Embedded image model

A text-to-image model of {parameters} million parameters that draws 64 px pictures of
{concepts} things from short captions. It lets Online SynCLR run whole, its real image renderer
included, on any machine, without a download. It is a teaching-size model: it knows the things
below and nothing else.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{folder}", safety_checker=None)
images = pipeline(["a red fox in a snowy field"] * 4, num_inference_steps={steps},
                  guidance_scale={guidance}, height=64, width=64).images
```

## What it draws

Things: {names}.

Backgrounds: {backgrounds}.

## Figures

{figures}

Captions were written by SmolLM2-135M-Instruct and seen by no training. The judge is a classifier
trained on real compositions only. Spread ratio: mean pairwise distance of the images of one
caption, divided by that of real compositions that fulfil the same caption.

## How it was made

Icons in free pose, size, place and colour over drawn backgrounds: of all three artists for the
codec and the first steps of the denoiser, of Fluent and Twemoji for the rest. Captions from
templates and from the LLM. A codec (AutoencoderKL, 64 px to 8 x 8 x 8), a CLIP text encoder
and a UNet (v-prediction), all trained from nothing on CPU:
`python -m recipes.embedded_image_model --config recipes/embedded_image_model/config.yaml`.

## Limits

Shapes are coarse and small detail is lost. Colours that no training picture showed, counts, and
the relation of two things are often drawn wrong; the judge says which thing is drawn, not whether
its colour, place or partner is right.

## Sources and licences

The weights derive from these icons; whoever ships them passes these notices on.

{sources}

Twemoji graphics are licensed under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/); they
were rasterised, recoloured, turned and composed. The licence texts are in `LICENSES/`.
"""


def figures(report: dict) -> str:
    """The figures as a table."""
    counted = f"{report['images']} images, {report['captions']} captions"
    templates = (f"{k} {v:.3f}" for k, v in report["top1_by_template"].items())
    speeds = (f"{v} images/s on {k}" for k, v in report["images_per_s"].items())
    sampler = f"{report['steps']} steps, guidance {report['guidance']}"
    sizes = (f"{k} {v}M" for k, v in report["parameters_m"].items())
    rows = {
        "concepts": report["concepts"],
        "recognised (top-1) on LLM captions": f"{report['top1']:.3f} over {counted}",
        "the same by kind of caption": ", ".join(templates),
        "judge on held-out real compositions": f"{report['judge_accuracy_real']:.3f}",
        "judge on them after the codec": f"{report['judge_accuracy_codec']:.3f}",
        "spread ratio, pixels": f"{report['spread_ratio']['pixels']:.3f}",
        "spread ratio, judge's features": f"{report['spread_ratio']['features']:.3f}",
        "codec PSNR on compositions": f"{report['vae_psnr_db']:.1f} dB",
        "sampler": f"{report['scheduler']}, {sampler}",
        "speed, fp32": f"{', '.join(speeds)} ({report['machine']}, load {report['load_average']})",
        "folder": f"{report['folder_mb']} MB; {', '.join(sizes)}",
    }
    lines = [f"| {what} | {figure} |" for what, figure in rows.items()]
    return "\n".join(["| what | figure |", "| --- | --- |", *lines])


def write(config: Config) -> None:
    """Write the model card and the report from the shipped folder's `evaluation.json`."""
    out = Path(config.out)
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    sources = "\n".join(
        f"- {source.artist}; {source.licence}; {source.home} "
        f"(npm `{source.package}` {source.version})"
        for source in SOURCES
    )
    text = CARD.format(
        parameters=round(sum(report["parameters_m"].values()), 1), concepts=report["concepts"],
        folder=config.out, steps=report["steps"], guidance=report["guidance"],
        names=", ".join(NAMES), backgrounds=", ".join(b.phrase for b in BACKGROUNDS),
        figures=figures(report), sources=sources,
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")
    document = Path(config.report)
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_document(report, config), encoding="utf-8")


def _document(report: dict, config: Config) -> str:
    """The report: figures, weakest concepts, most frequent mistakes, the sheet."""
    weakest = ", ".join(f"{k} {v:.2f}" for k, v in list(report["top1_by_concept"].items())[:12])
    mistakes = ", ".join(f"{k} ({v})" for k, v in report["mistaken"].items())
    sheet = Path(config.sheet).relative_to(Path(config.report).parent)
    return f"""# The embedded image model

Written by the recipe from `evaluation.json` in the model's folder; do not edit by hand. What the
model is, what it draws and its licences: [model card](../{config.out}/README.md).

{figures(report)}

Weakest concepts: {weakest}.

Most frequent mistakes: {mistakes}.

![groups of one caption each]({sheet})

Each strip is one group: the images of one caption, which the trainer treats as positives of each
other. Nothing was picked or left out.

Read the figures with this in mind: the sampler and its guidance were chosen on one caption a
concept of the same evaluation file, so top-1 is slightly flattered; the judge looks at which thing
is drawn, not at its colour, place or partner; and the shipped weights came from several sittings
with settings changed midway, in which the denoiser's later steps saw Fluent and Twemoji only (Noto
is in the codec, in its first steps and in the judge). One full run of the command below has not
reproduced them yet.

## Making it again

    python -m recipes.embedded_image_model --config recipes/embedded_image_model/config.yaml

It needs `make install-test` and npm.
Every stage keeps its output in `{config.work}` and is skipped when that is there.
`--quick` runs all of them in a few minutes at a size that draws nothing useful.
"""
