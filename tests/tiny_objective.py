"""Settings of an objective small enough for a test, and random batches for it."""

from typing import Any

import torch

from online_synclr.config.schema import Config, TrainerConfig
from trainer.objective.ids import image_pairs
from trainer.objective.views import Views

NUM_GROUPS, IMAGES = 6, 2


def tiny_config(**trainer: Any) -> Config:
    """Six groups of two images; one 16 px global and two 8 px local crops of each."""
    settings: dict[str, Any] = {
        "steps": 10,
        "batch_groups": NUM_GROUPS,
        "backbone": "vit_tiny_patch16_224",
        "backbone_args": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "drop_path": 0.0,
        "precision": "fp32",
        "crops": {"global_px": 16, "local_px": 8, "locals_per_image": 2},
        "contrastive": {"projector_hidden": 24, "predictor_hidden": 24, "out_dim": 8},
        "mim": {"prototypes": 20, "hidden": 24, "bottleneck": 8, "teacher_warmup_steps": 4},
    }
    for key, value in trainer.items():
        merge = isinstance(settings.get(key), dict) and key != "backbone_args"
        settings[key] = {**settings[key], **value} if merge else value
    return Config.model_validate({"images": {"per_caption": IMAGES}, "trainer": settings})


def tiny_trainer(**trainer: Any) -> TrainerConfig:
    """The trainer's part of `tiny_config`."""
    return tiny_config(**trainer).trainer


def tiny_views(config: Config, seed: int = 0) -> Views:
    """Random views of the whole global batch."""
    crops = config.trainer.crops
    generator = torch.Generator().manual_seed(seed)
    num = config.trainer.batch_groups * config.images_per_group

    def noise(per_image: int, side: int) -> torch.Tensor:
        return torch.randn((per_image * num, 3, side, side), generator=generator)

    return Views(
        noise(crops.globals_per_image, crops.global_px),
        noise(crops.locals_per_image, crops.local_px),
        num,
    )


def tiny_ids(config: Config) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Captions (the first and the last group share one), concepts (two captions each), images."""
    groups = torch.arange(config.trainer.batch_groups)
    captions = groups.clone()
    captions[-1] = captions[0]
    concepts = captions // 2
    rows = [
        torch.stack((ids, ids + 5), dim=1).repeat_interleave(config.images_per_group, dim=0)
        for ids in (captions, concepts)
    ]
    return rows[0], rows[1], image_pairs(rows[0].shape[0], rank=0)


def shard(views: Views, rank: int, size: int) -> Views:
    """The part of the views whose images belong to one rank of `size`."""
    num = views.num_images // size

    def part(tensor: torch.Tensor) -> torch.Tensor:
        crops = tensor.unflatten(0, (-1, views.num_images))
        return crops[:, rank * num : (rank + 1) * num].flatten(0, 1)

    return Views(part(views.globals_), part(views.locals_), num)
