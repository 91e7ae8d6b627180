"""Training on groups that are there already: the product's batches, step and kNN, no stream.

Every group is used equally often: the pool is walked in random order, again and again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from online_synclr.config import Config
from online_synclr.stream.group import Group
from trainer.batch import BatchMaker
from trainer.distributed import Trainers
from trainer.evaluation.probe import KnnProbe
from trainer.objective.model import build_model
from trainer.step import TrainStep


def run(config: Config, groups: list[Group], out: Path, say: str) -> dict[str, object]:
    """Train for `trainer.steps`; the curve of the teacher's kNN accuracy, kept in `out`.

    The teacher's backbone is kept beside it, for a look at what the figures do not say.
    The curve's first value is that of the weights before any step. A result that is there already
    is taken if its weights are there too and the settings, the captions and the maker of the
    pictures are the same.
    """
    key = _key(config, groups)
    if out.exists() and out.with_suffix(".safetensors").exists():
        found: dict[str, object] = json.loads(out.read_text())
        if found["key"] == key:
            return found
    device = torch.device("cpu")
    model = build_model(config.trainer, run_seed=config.run.seed, device=device)
    trainers = Trainers(index=0, size=1, device=device)
    step_of = TrainStep(config, model=model, trainers=trainers, incarnation=1)
    batch_of = BatchMaker(
        images_per_group=config.images.per_caption, run_seed=config.run.seed,
        trainer_index=0, device=device,
    )  # fmt: skip
    probe = KnnProbe(config, device)
    curve = [(0, probe.accuracy(model.teacher.backbone))]
    random = np.random.default_rng(config.run.seed)
    order: list[int] = []
    for step in range(config.trainer.steps):
        if len(order) < config.trainer.batch_groups:
            order += random.permutation(len(groups)).tolist()
        taken, order = order[: config.trainer.batch_groups], order[config.trainer.batch_groups :]
        step_of(batch_of([groups[index] for index in taken], step), step)
        done = step + 1
        if done % config.monitor.knn_every_steps == 0 or done == config.trainer.steps:
            curve.append((done, probe.accuracy(model.teacher.backbone)))
            print(f"{say}: step {done}, kNN {100 * (curve[-1][1] or 0):.1f} %", flush=True)
    outcome: dict[str, object] = {
        "key": key,
        "pictures": groups[0].recipe.image_fingerprint,
        "curve": curve,
        "steps": config.trainer.steps,
        "groups": len(groups),
        "images": len(groups) * config.images.per_caption,
        "reuse": round(config.trainer.steps * config.trainer.batch_groups / len(groups), 2),
        "distinct_captions": len({group.recipe.caption for group in groups}),
    }
    save_file(model.teacher.backbone.state_dict(), out.with_suffix(".safetensors"))
    out.write_text(json.dumps(outcome))
    return outcome


def _key(config: Config, groups: list[Group]) -> str:
    """What a result depends on, in few letters."""
    recipes = [[group.recipe.caption, group.recipe.image_fingerprint] for group in groups]
    settings = [config.trainer.model_dump(mode="json"), config.run.seed, recipes]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
