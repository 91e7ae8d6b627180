"""Alignment, uniformity and RankMe of the teacher's embeddings of the groups trained on.

    teacher's pass of the last few steps before one that is due -> rows, on each trainer
    -> measures over all trainers -> the same figures on each

Nothing is computed again: rows are copies of what the teacher has just made of the first global
crop of each image. Steps are taken together until there are `monitor.embeddings` rows; a large
batch has them at once. Rows of several steps come from weights a few steps apart.

Alignment and uniformity are those of the projections, where the loss acts; RankMe is told of both:
of the class tokens, which are what is used afterwards, and of the projections, of which the paper
speaks and which collapse first.
"""

from collections.abc import Callable

import torch

from online_synclr.config import Config
from online_synclr.monitor import metrics
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.evaluation.embedding_measures import alignment, rankme, uniformity
from trainer.objective import gather
from trainer.objective.model import TeacherOutput


class EmbeddingProbe:
    """Collects rows and measures them; every trainer has one and calls it alike.

    Args:
        config: `monitor.embeddings`, its interval and the batch are read.
        trainers: this trainer among all.
        allowed: whether a measurement may begin; the same on all trainers.
    """

    def __init__(self, config: Config, trainers: Trainers, allowed: Callable[[], bool]) -> None:
        per_group = self._images_per_group = config.images_per_group
        local_images = config.trainer.batch_groups // trainers.size * per_group
        wanted = -(-config.monitor.embeddings // trainers.size)
        self._max_rows = -(-wanted // per_group) * per_group
        self._every = config.monitor.embeddings_every_steps
        self._num_steps = min(-(-self._max_rows // local_images), max(1, self._every))
        self._trainers = gather.Trainers(trainers.device_group)
        self._allowed = allowed
        self._collecting = False
        self._rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def before_step(self, step: int) -> None:
        """Decide, `step` steps being done, whether the next ones are collected."""
        if self._every and (step + self._num_steps) % self._every == 0:
            self._rows = []
            self._collecting = self._allowed()

    @property
    def collecting(self) -> bool:
        """Whether rows of this step are wanted."""
        return self._collecting

    def take(self, teachers: TeacherOutput, batch: Batch) -> None:
        """Keep rows of a step, if they are wanted. Nothing waits for the device."""
        num_images = batch.images_NCHW.shape[0]
        num = min(num_images, self._max_rows - sum(len(ids) for _, _, ids in self._rows))
        if self._collecting and num > 0:
            self._rows.append(
                (
                    teachers.keys_KZ[:num].float().clone(),
                    teachers.features_KE[:num].float().clone(),
                    batch.captions_N2[:num],
                )
            )

    def is_due(self, step: int) -> bool:
        """Whether what was collected is to be measured after `step` steps.

        Never where only a frozen teacher teaches: no average teacher has seen anything.
        """
        return self._collecting and bool(self._rows) and step % self._every == 0

    def measure(self) -> dict[str, float]:
        """The figures, by metric, of all trainers. Waits for them and for the device."""
        keys_NZ, features_NE, ids_N2 = (torch.cat(part) for part in zip(*self._rows, strict=True))
        self._rows, self._collecting = [], False
        return {
            metrics.EMBEDDINGS_ALIGNMENT: alignment(
                keys_NZ, self._images_per_group, self._trainers
            ),
            metrics.EMBEDDINGS_UNIFORMITY: uniformity(keys_NZ, ids_N2, self._trainers),
            metrics.EMBEDDINGS_RANKME: rankme(features_NE, self._trainers),
            metrics.EMBEDDINGS_RANKME_PROJECTIONS: rankme(keys_NZ, self._trainers),
        }
