"""`python -m recipes.learning_study`: six runs, two baselines, docs/study.{md,json} and the plot.

Runs that have finished are not repeated. `--parallel 2` runs the two arms of a seed side by side,
each on half of the cores, so that both meet the same machine.
"""

import argparse
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from recipes.learning_study import report
from recipes.learning_study.runs import ARMS, CONFIG, Outcome, run_arm

DOCS = Path("docs")


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning_study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    jobs = [(arm, seed) for seed in arguments.seeds for arm in ARMS]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        outcomes = list(
            pool.map(lambda job: run_arm(*job, arguments.folder, arguments.overrides), jobs)
        )
    write_report(outcomes, arguments.parallel)


def write_report(outcomes: list[Outcome], parallel: int) -> None:
    """docs/study.md from its hand-written head and the figures."""
    raw_pixels, chance = baselines()
    report.write_json(DOCS / "study.json", outcomes, raw_pixels, chance)
    report.plot(DOCS / "images" / "study.png", outcomes, raw_pixels)
    head = Path(__file__).with_name("head.md").read_text()
    parts = [
        head.rstrip(),
        report.table(outcomes, raw_pixels, chance),
        "![kNN accuracy over steps](images/study.png)",
        report.details(outcomes),
        setting(parallel),
    ]
    (DOCS / "study.md").write_text("\n\n".join(parts) + "\n")


def baselines() -> tuple[float, float]:
    """kNN accuracy of raw pixels, and the share of the check set's largest label."""
    from online_synclr.config import load_config
    from trainer.evaluation.features import raw_pixels
    from trainer.evaluation.image_folder import load_images, resolve_folder
    from trainer.evaluation.knn import leave_one_out_accuracy

    config = load_config(CONFIG)
    folder = resolve_folder(config.monitor.knn_folder)
    assert folder is not None
    images = load_images(folder, config.trainer.crops.global_px)
    accuracy = leave_one_out_accuracy(
        raw_pixels(images.images_NCHW),
        images.labels_N,
        neighbours=config.monitor.knn_neighbours,
    )
    return accuracy, images.labels_N.bincount().max().item() / images.num_images


def setting(parallel: int) -> str:
    """Where and with what the figures were taken."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "diffusers"))
    cores = "each run on half of the cores" if parallel > 1 else "one run at a time"
    return (
        f"Taken with {versions}, Python {platform.python_version()}, on two CPU cores, {cores}, at "
        f"commit {commit}: `python -m recipes.learning_study --parallel {parallel}`. "
        "All figures: [study.json](study.json)."
    )


if __name__ == "__main__":
    main()
