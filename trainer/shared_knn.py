"""kNN accuracy of the teacher on labelled pictures, shared out over trainers and over steps.

    snapshot of the backbone's weights -> slices of this trainer's pictures, one after each step
    -> last slice: features of all trainers, each compares its own with all -> the same accuracy

A slice is at most as large as half of a step's images, without gradients: about a tenth of a
step's work. All trainers have equally many slices at the same steps, so none waits for another in
a vote, and only the last slice has collectives. All features of a probe come from the weights of
the moment at which it began, which are kept until it is over.

Shapes: N images of this trainer, M of all, L of the largest share, S trainers, D features.
"""

from collections.abc import Callable

import torch
from torch.func import functional_call

from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import TrainerConfig
from trainer.distributed import Trainers
from trainer.evaluation.features import Embed, normalise
from trainer.evaluation.image_folder import resolve_folder
from trainer.evaluation.image_share import ImageShare, load_share
from trainer.evaluation.knn import num_right
from trainer.objective import gather
from trainer.objective.backbone import build_backbone
from trainer.objective.model import Teacher
from trainer.objective.precision import autocast, unfuse_slow_attention
from trainer.objective.shards import gathered
from trainer.sharding import is_sharded

PART_OF_STEP = 2
"""A slice has at most a step's images of one trainer, divided by this."""
MAX_SLICE_IMAGES = 256


class SharedKnnProbe:
    """One measurement at a time; every trainer has one and calls it alike.

    Args:
        share: this trainer's images.
        snapshot: freezes the weights and returns what embeds with them.
        neighbours: of the vote.
        slice_images: embedded at once.
        trainers: that have the other shares.
    """

    def __init__(
        self,
        share: ImageShare,
        snapshot: Callable[[], Embed],
        *,
        neighbours: int,
        slice_images: int,
        trainers: Trainers,
    ) -> None:
        self._share = share
        self._snapshot = snapshot
        self._neighbours = neighbours
        self._slice_images = slice_images
        self._device = trainers.device
        self._trainers = gather.Trainers(trainers.device_group)
        self._embed: Embed | None = None
        self._next = 0
        self._features: list[torch.Tensor] = []

    @property
    def under_way(self) -> bool:
        """Whether a measurement has begun and is not over."""
        return self._embed is not None

    @property
    def at_last_slice(self) -> bool:
        """Whether the next slice is the one in which trainers meet."""
        return self.under_way and self._next >= self._share.largest_share

    def begin(self) -> None:
        """Freeze the weights. Every trainer calls it; where they are sharded all wait."""
        self.drop()
        self._embed = self._snapshot()

    def advance(self) -> float | None:
        """Do the next slice; the accuracy with the last one, the same on every trainer.

        Waits for the device, and for the other trainers, in the last slice only.
        """
        assert self._embed is not None, "nothing has begun"
        if not self.at_last_slice:
            images_NCHW = self._share.images_NCHW[self._next : self._next + self._slice_images]
            if len(images_NCHW):
                self._features.append(self._embed(self._to_device(images_NCHW)).float())
            self._next += self._slice_images
            return None
        features_ND = torch.cat(self._features) if self._features else None
        self.drop()
        return self._compare(features_ND)

    def measure(self) -> float:
        """All of it at once."""
        self.begin()
        while (accuracy := self.advance()) is None:
            pass
        return accuracy

    def drop(self) -> None:
        """End what is under way, if anything, without a result."""
        self._embed, self._next, self._features = None, 0, []

    def _compare(self, features_ND: torch.Tensor | None) -> float:
        share, longest = self._share, self._share.largest_share
        assert features_ND is not None, "there are at least as many images as trainers"
        filled_LD = torch.nn.functional.pad(features_ND, (0, 0, 0, longest - len(features_ND)))
        all_MD = share.in_order(self._trainers.gather(filled_LD).view(share.size, longest, -1))
        right = num_right(
            all_MD,
            share.labels_M.to(self._device),
            neighbours=self._neighbours,
            queries_Q=share.own_rows.to(self._device),
        )
        return float(self._trainers.sum_(right.double())) / len(share.labels_M)

    def _to_device(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            images_NCHW = images_NCHW.pin_memory()
        return normalise(images_NCHW.to(self._device, non_blocking=True))


def build_shared_knn(config: Config, teacher: Teacher, trainers: Trainers) -> SharedKnnProbe | None:
    """This trainer's part of the probe; None without a labelled folder. Waits for every trainer.

    Raises:
        ConfigError: the folder cannot be read, or has too few images.
    """
    folder = resolve_folder(config.monitor.knn_folder)
    if folder is None:
        return None
    share = load_share(
        folder,
        config.trainer.crops.global_px,
        index=trainers.index,
        size=trainers.size,
        group=trainers.cpu_group,
    )
    neighbours, num_images = config.monitor.knn_neighbours, len(share.labels_M)
    if num_images <= max(neighbours, trainers.size - 1):
        raise ConfigError(
            f"monitor.knn_neighbours={neighbours}, but {folder} has only {num_images} images for "
            f"{trainers.size} trainers; lower it or add images."
        )
    step_images = config.trainer.batch_groups // trainers.size * config.images_per_group
    return SharedKnnProbe(
        share,
        lambda: snapshot(teacher, config.trainer, trainers),
        neighbours=neighbours,
        slice_images=max(1, min(step_images // PART_OF_STEP, MAX_SLICE_IMAGES)),
        trainers=trainers,
    )


def snapshot(teacher: Teacher, settings: TrainerConfig, trainers: Trainers) -> Embed:
    """What embeds normalised images with the weights that the teacher's backbone has now.

    It takes up as much memory as these weights, in float32, for as long as it is kept. Every
    trainer must ask for that of a sharded teacher, and has all of it then.
    """
    network, weights = _frozen(teacher, settings, trainers)

    @torch.no_grad()
    def embed(images_N3SS: torch.Tensor) -> torch.Tensor:
        with autocast(settings.precision, trainers.device):
            features_ND: torch.Tensor = functional_call(network, weights, images_N3SS)
        return features_ND

    return embed


def _frozen(
    teacher: Teacher, settings: TrainerConfig, trainers: Trainers
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    if not is_sharded(teacher):
        state = teacher.backbone.state_dict()
        return teacher.backbone, {name: value.clone() for name, value in state.items()}
    # Calling a sharded network, even with other weights, gathers its own.
    weights = gathered(teacher.backbone.state_dict(), keep=True)
    fresh = settings.model_copy(update={"pretrained": False})
    with torch.random.fork_rng(devices=[]):
        copy = build_backbone(fresh, drop_path=0.0, mask_token=False)
    copy.load_state_dict(weights)
    copy.requires_grad_(False).eval().to(trainers.device)
    unfuse_slow_attention(copy, settings.precision, trainers.device)
    return copy, {}
