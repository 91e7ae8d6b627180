"""A training step small enough for tests: tiny networks on random groups."""

import numpy as np
import torch

from online_synclr.config import Config
from online_synclr.stream.group import Group, Recipe
from trainer.batch import Batch, BatchMaker
from trainer.distributed import Trainers
from trainer.objective.model import build_model
from trainer.objective.shards import gathered
from trainer.step import TrainStep

CPU = torch.device("cpu")
ALONE = Trainers(index=0, size=1, device=CPU)
SIDE_PX = 20


def tiny_step(config: Config, trainers: Trainers = ALONE) -> TrainStep:
    """A fresh step; equal settings give equal weights."""
    model = build_model(config.trainer, run_seed=config.run.seed, device=trainers.device)
    return TrainStep(config, model=model, trainers=trainers, incarnation=1)


def tiny_group(config: Config, number: int) -> Group:
    """A random group; the number decides its pixels and its caption."""
    images = config.images.per_caption
    recipe = Recipe(
        caption=f"caption number {number}",
        concept=f"concept {number % 3}",
        source="test",
        template="c",
        background="",
        relation="",
        run_seed=0,
        incarnation=1,
        stream=0,
        counter=number,
        num_images=images,
        llm_fingerprint="",
        image_fingerprint="",
    )
    pixels = np.random.default_rng(number).integers(0, 256, (images, 3, SIDE_PX, SIDE_PX))
    return Group(recipe, pixels.astype(np.uint8))


def tiny_batch(config: Config, step: int, trainers: Trainers = ALONE) -> Batch:
    """The batch of one trainer at one step, different for each."""
    maker = BatchMaker(
        images_per_group=config.images_per_group,
        run_seed=config.run.seed,
        trainer_index=trainers.index,
        device=trainers.device,
    )
    share = config.trainer.batch_groups // trainers.size
    first = 1000 * step + share * trainers.index
    return maker([tiny_group(config, first + index) for index in range(share)], step)


def weights(step: TrainStep) -> dict[str, torch.Tensor]:
    """Copies of all weights of student and teacher, whole; every trainer calls it."""
    networks = {"student": step.model.student, "teacher": step.model.teacher}
    return {
        f"{name}.{key}": value.clone()
        for name, network in networks.items()
        for key, value in gathered(network.state_dict(), keep=True).items()
    }
