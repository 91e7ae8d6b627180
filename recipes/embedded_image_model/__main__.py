"""One command from nothing to the shipped folder.

    python -m recipes.embedded_image_model --config recipes/embedded_image_model/config.yaml

Stages: icons, LLM captions, codec, text encoder, denoiser, decoder, judge, export, evaluation,
texts. Stop it at any time; the same command goes on where it stopped: what a stage has made lies in
the work folder and is not made again, but for the last three stages, which take minutes, and for
the judge, which starts anew when stopped half-way.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from recipes.embedded_image_model import config as settings
from recipes.embedded_image_model import stages, work_folder

QUICK_WORK = "runs/embedded_image_model_quick"


def quick(config: settings.Config, work: Path) -> settings.Config:
    """The same stages, all in `work`, in a few minutes; what comes out draws nothing useful."""
    change = dataclasses.replace
    return change(
        config,
        work=str(work),
        out=str(work / "model"),
        configs=str(work / "configs"),
        sheet=str(work / "samples.png"),
        report=str(work / "report.md"),
        notes="",
        backgrounds_each=8,
        vae=change(config.vae, pool_images=512, crop_steps=40, frame_steps=10, decoder_steps=10),
        text=change(config.text, steps=40),
        unet=change(config.unet, pool=512, steps=40),
        captions=change(config.captions, each=1, eval_each=1),
        judge=change(config.judge, steps=60, folder=str(work / "judge")),
        demo=change(config.demo, captions_each=1, steps_tried=(4,)),
    )


def main() -> None:
    """Parse, build, run."""
    parser = argparse.ArgumentParser(prog="recipes.embedded_image_model", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings (YAML)")
    parser.add_argument("--quick", action="store_true", help="a few minutes; draws nothing useful")
    parser.add_argument("--work", help="folder for everything on the way (default: the settings')")
    parser.add_argument(
        "--only", choices=list(stages.STAGES), help="run one stage (what it needs must be there)"
    )
    arguments = parser.parse_args()
    config = settings.load(arguments.config)
    if arguments.work:
        config = dataclasses.replace(config, work=arguments.work)
    if arguments.quick:
        config = quick(config, Path(arguments.work or QUICK_WORK))
    try:
        work_folder.claim(config)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(config.threads)
    for name, stage in stages.STAGES.items():
        if arguments.only in (None, name):
            print(f"== {name}", flush=True)
            stage(config)


if __name__ == "__main__":
    main()
