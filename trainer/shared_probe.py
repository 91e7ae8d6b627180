"""kNN accuracy of the teacher: trainer 0 measures it, and every trainer gives its part of weights.

    all trainers: shards of the teacher's backbone --> trainer 0: a whole copy --> kNN accuracy

Where networks are whole on every trainer nothing is sent, and trainer 0 measures on its own; the
others meanwhile wait in the next vote.
"""

import torch

from online_synclr.config import Config
from online_synclr.config.schema import TrainerConfig
from trainer.distributed import Trainers
from trainer.first_trainer import FirstTrainer
from trainer.objective.backbone import Backbone, build_backbone
from trainer.objective.model import Teacher
from trainer.objective.precision import unfuse_slow_attention
from trainer.objective.shards import gathered
from trainer.sharding import is_sharded


class SharedProbe:
    """Brings all trainers to a measurement at the same steps. `first`: trainer 0's; None elsewhere.

    When it is due is known from settings and step alone, which are the same on every trainer.
    """

    def __init__(
        self, config: Config, teacher: Teacher, trainers: Trainers, first: FirstTrainer | None
    ) -> None:
        self._config = config
        self._teacher = teacher
        self._trainers = trainers
        self._first = first

    def is_due(self, step: int) -> bool:
        """Whether `monitor.knn_every_steps` asks for it after `step` steps; the end has its own."""
        every = self._config.monitor.knn_every_steps
        return every > 0 and step % every == 0 and step < self._config.trainer.part_end(step - 1)

    def measure(self, step: int) -> float | None:
        """Accuracy after `step` steps, on trainer 0; None elsewhere and without labelled images.

        Every trainer calls it; where the teacher is sharded they wait for each other.
        """
        if not self._config.monitor.knn_folder:
            return None
        backbone = whole_backbone(self._teacher, self._config.trainer, self._trainers)
        if self._first is None or backbone is None:
            return None
        return self._first.measure_knn(step, backbone)


def whole_backbone(
    teacher: Teacher, settings: TrainerConfig, trainers: Trainers
) -> Backbone | None:
    """The teacher's backbone for trainer 0 to call alone; None on the others.

    Of a sharded teacher, which every trainer must then ask for, a copy that takes up memory on the
    device for as long as it is kept.
    """
    if not is_sharded(teacher):
        return teacher.backbone if trainers.is_first else None
    weights = gathered(teacher.backbone.state_dict(), keep=trainers.is_first)
    if not trainers.is_first:
        return None
    with torch.random.fork_rng(devices=[]):
        copy = build_backbone(settings, drop_path=0.0, mask_token=False)
    copy.load_state_dict(weights)
    copy.requires_grad_(False).eval().to(trainers.device)
    unfuse_slow_attention(copy, settings.precision, trainers.device)
    return copy
