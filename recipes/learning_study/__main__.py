"""`python -m recipes.learning_study`: six runs, two baselines, docs/study.{md,json} and the plot.

Runs that have finished are not repeated. `--parallel 2` runs the two arms of a seed side by side,
each on half of the cores, so that both meet the same machine. `--judge` adds, as a ceiling, the
concept classifier that the image model's recipe trains on real compositions.
"""

import argparse
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.learning_study import report
from recipes.learning_study.runs import ARMS, CONFIG, Outcome, run_arm

if TYPE_CHECKING:
    import torch

DOCS = Path("docs")


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning_study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--judge", type=Path, help="the image recipe's judge.safetensors")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    jobs = [(arm, seed) for seed in arguments.seeds for arm in ARMS]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        outcomes = list(
            pool.map(lambda job: run_arm(*job, arguments.folder, arguments.overrides), jobs)
        )
    write_report(outcomes, report_baselines(arguments.judge), arguments.parallel)


def write_report(outcomes: list[Outcome], baselines: report.Baselines, parallel: int) -> None:
    """docs/study.md from its hand-written head and notes and the figures between them."""
    report.write_json(DOCS / "study.json", outcomes, baselines)
    report.plot(DOCS / "images" / "study.png", outcomes, baselines)
    head = Path(__file__).with_name("head.md").read_text()
    parts = [
        head.rstrip(),
        report.table(outcomes, baselines),
        report.reading(outcomes, baselines),
        "![kNN accuracy over steps](images/study.png)",
        report.details(outcomes),
        setting(outcomes, parallel),
        Path(__file__).with_name("notes.md").read_text().rstrip(),
    ]
    (DOCS / "study.md").write_text("\n\n".join(parts) + "\n")


def report_baselines(judge: Path | None) -> report.Baselines:
    """What needs no run: raw pixels, the largest label, the judge if there is one."""
    from online_synclr.config import load_config
    from trainer.evaluation.features import raw_pixels
    from trainer.evaluation.image_folder import load_images, resolve_folder
    from trainer.evaluation.knn import leave_one_out_accuracy

    config = load_config(CONFIG)
    folder = resolve_folder(config.monitor.knn_folder)
    assert folder is not None
    images = load_images(folder, config.trainer.crops.global_px)

    def accuracy(features_ND: "torch.Tensor") -> float:
        neighbours = config.monitor.knn_neighbours
        return leave_one_out_accuracy(features_ND, images.labels_N, neighbours=neighbours)

    return report.Baselines(
        num_images=images.num_images,
        largest_label=images.labels_N.bincount().max().item() / images.num_images,
        raw_pixels=accuracy(raw_pixels(images.images_NCHW)),
        judge=None if judge is None else accuracy(_judge_features(judge, images.images_NCHW)),
    )


def _judge_features(weights: Path, images_N3SS: "torch.Tensor") -> "torch.Tensor":
    import torch

    from recipes.embedded_image_model import judge
    from recipes.embedded_image_model.config import JudgeConfig

    with torch.no_grad():
        return judge.load(weights, JudgeConfig()).features(images_N3SS.float() / 255)


def setting(outcomes: list[Outcome], parallel: int) -> str:
    """Where and with what the figures were taken."""
    commits = ", ".join(sorted({outcome.commit for outcome in outcomes}))
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "timm", "diffusers", "transformers")
    )
    cores = "each run on half of the cores" if parallel > 1 else "one run at a time"
    return (
        f"Taken with {versions}, Python {platform.python_version()}, on two CPU cores, {cores}, at "
        f"commit {commits}: `python -m recipes.learning_study --parallel {parallel}`. "
        "All figures: [study.json](study.json)."
    )


if __name__ == "__main__":
    main()
