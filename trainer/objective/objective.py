"""The losses of one step: contrastive on global crops, on local crops, and masked images.

Shapes: N images on this rank, G global crops of each, K = G * N keys, M keys of all trainers.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from online_synclr.config.schema import Config
from trainer.objective.contrastive import Candidates, candidates, contrastive_loss
from trainer.objective.gather import Trainers
from trainer.objective.ids import occurrences
from trainer.objective.masking import Mask, draw_mask
from trainer.objective.mim import PatchScores, mim_loss, sinkhorn_log_scale
from trainer.objective.model import StudentOutput, Teacher, TeacherOutput, masked_images
from trainer.objective.precision import autocast
from trainer.objective.rng import step_generator, to_device
from trainer.objective.schedules import step_settings
from trainer.objective.shuffle import exchanged
from trainer.objective.views import Views


@dataclass(frozen=True, slots=True)
class LossParts:
    """Float32 scalars on the device; `total` is the weighted sum and alone needs a backward.

    `metrics` are without gradient and equal on every rank: `same_concept_share`, of the candidates
    that are not positives those of the image's own concept, mean over the images (possible false
    negatives); `repeated_share`, the groups of the global batch whose caption occurs again in it.
    """

    total: torch.Tensor
    global_: torch.Tensor
    local: torch.Tensor
    mim: torch.Tensor
    metrics: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Identities:
    """int64 (rows, 2) each, of images or of keys: class for the loss, concept, caption."""

    classes: torch.Tensor
    concepts: torch.Tensor
    captions: torch.Tensor

    def rows(self, index: torch.Tensor) -> "Identities":
        """The identities of some rows."""
        return Identities(self.classes[index], self.concepts[index], self.captions[index])


class Objective:
    """Computes the losses; owns the order of the trainers' collectives within a step.

    Every trainer calls `losses` for the same step with equally many images. It waits for the other
    trainers where keys and Sinkhorn sums meet; the vote before the step makes sure that they come.
    """

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: Teacher,
        process_group: "dist.ProcessGroup | None" = None,
        *,
        incarnation: int = 0,
    ) -> None:
        """Bind the networks.

        Args:
            config: the whole settings; `trainer`, `run.seed` and `images_per_group` are read.
            student: a `Student`, or one wrapped in DistributedDataParallel.
            teacher: the teacher, on the same device.
            process_group: the trainers', or none for a single one.
            incarnation: of the run; with seed, rank and step it keys masks and exchanges.
        """
        self._trainer = config.trainer
        self._run_seed = config.run.seed
        self._incarnation = incarnation
        self._images_per_group = config.images_per_group
        self._student = student
        self._teacher = teacher
        self._trainers = Trainers(process_group)

    def losses(
        self,
        views: Views,
        class_ids: torch.Tensor,
        concept_ids: torch.Tensor,
        image_ids: torch.Tensor,
        step: int,
    ) -> LossParts:
        """Forward passes and losses of one step, without a wait for the device.

        Args:
            views: of this rank's N images, group by group.
            class_ids: int64 (N, 2), caption identity of each image, on the device.
            concept_ids: int64 (N, 2), concept identity.
            image_ids: int64 (N, 2), identity of the image, unique over all trainers.
            step: of the run, from 0.

        Returns:
            The parts; the losses are means over this rank's anchors, so that averaging gradients
            over the trainers gives the gradient of the global batch.
        """
        mask = self.draw_mask(views, step)
        students, teachers = self.forward(views, mask)
        ids = self._exchange(self._identities(class_ids, concept_ids, image_ids), step)
        return self.combine(students, teachers, ids, step)

    def draw_mask(self, views: Views, step: int) -> Mask | None:
        """The step's mask, or none when masked images are not part of the objective."""
        if not masked_images(self._trainer):
            return None
        side = views.globals_.shape[-1] // self._teacher.backbone.patch_px
        return draw_mask(
            views.globals_.shape[0],
            side * side,
            self._trainer.mim,
            generator=self._generator("masks", step),
            device=views.globals_.device,
        )

    def forward(self, views: Views, mask: Mask | None) -> tuple[StudentOutput, TeacherOutput]:
        """Both networks, in the precision of the settings."""
        mask_KT, index_R = (None, None) if mask is None else (mask.mask_KT, mask.index_R)
        with autocast(self._trainer.precision, views.globals_.device):
            teachers: TeacherOutput = self._teacher(views.globals_, index_R)
            students: StudentOutput = self._student(views.globals_, views.locals_, mask_KT, index_R)
        return students, teachers

    def combine(
        self, students: StudentOutput, teachers: TeacherOutput, ids: Identities, step: int
    ) -> LossParts:
        """The losses of given outputs; `ids` are those of this rank's images."""
        keys = self._gather_identities(ids, teachers.keys_KZ.shape[0])
        against = self._candidates(teachers.keys_KZ, ids, keys)
        settings = self._trainer.contrastive
        tau = settings.temperature
        global_ = contrastive_loss(students.globals_KZ, against, temperature=tau, own_key=True)
        local = contrastive_loss(students.locals_KZ, against, temperature=tau, own_key=False)
        mim = self._mim(students, teachers, step)
        total = settings.global_weight * global_ + self._trainer.mim.weight * mim
        total = total + settings.local_weight * local
        return LossParts(total, global_, local, mim, self._metrics(keys))

    def _mim(self, students: StudentOutput, teachers: TeacherOutput, step: int) -> torch.Tensor:
        if (
            students.patches_RZ is None
            or students.prototypes_PZ is None
            or teachers.patches_RZ is None
            or teachers.prototypes_PZ is None
        ):
            return students.globals_KZ.new_zeros((), dtype=torch.float32)
        mim = self._trainer.mim
        temperature = step_settings(self._trainer, step).teacher_temperature
        teacher = PatchScores(teachers.patches_RZ, teachers.prototypes_PZ)
        with autocast(self._trainer.precision, teachers.patches_RZ.device):
            log_scale_P = sinkhorn_log_scale(
                teacher,
                temperature=temperature,
                iterations=mim.sinkhorn_iterations,
                trainers=self._trainers,
            )
            return mim_loss(
                PatchScores(students.patches_RZ, students.prototypes_PZ),
                teacher,
                log_scale_P,
                student_temperature=mim.student_temperature,
                teacher_temperature=temperature,
            )

    def _candidates(self, keys_KZ: torch.Tensor, ids: Identities, keys: Identities) -> Candidates:
        return candidates(
            self._trainers.gather(keys_KZ.float()),
            classes_N2=ids.classes,
            classes_M2=keys.classes,
            concepts_N2=ids.concepts,
            concepts_M2=keys.concepts,
            negatives=self._trainer.contrastive.negatives,
            first_own=self._trainers.rank * keys_KZ.shape[0],
        )

    def _identities(
        self, captions: torch.Tensor, concepts: torch.Tensor, images: torch.Tensor
    ) -> Identities:
        choice = {"caption": captions, "image": images, "concept": concepts}
        return Identities(choice[self._trainer.contrastive.positives], concepts, captions)

    def _exchange(self, ids: Identities, step: int) -> Identities:
        if not self._trainer.shuffle_positives:
            return ids
        rows_N = exchanged(
            ids.classes.shape[0], self._images_per_group, self._generator("exchange", step)
        )
        return ids.rows(to_device(rows_N, ids.classes.device))

    def _gather_identities(self, ids: Identities, num_keys: int) -> Identities:
        # One collective for all three; each of the G crops of an image has the image's.
        packed_N6 = torch.cat((ids.classes, ids.concepts, ids.captions), dim=1)
        packed_K6 = packed_N6.repeat(num_keys // packed_N6.shape[0], 1)
        packed_M6 = self._trainers.gather(packed_K6)
        return Identities(packed_M6[:, 0:2], packed_M6[:, 2:4], packed_M6[:, 4:6])

    def _metrics(self, keys: Identities) -> dict[str, torch.Tensor]:
        num_keys = keys.classes.shape[0]
        of_class_M = occurrences(keys.classes)
        suspects_M = (occurrences(keys.concepts) - of_class_M).clamp(min=0)
        negatives_M = (num_keys - of_class_M).clamp(min=1)
        once = self._images_per_group * self._trainer.crops.globals_per_image
        return {
            "same_concept_share": (suspects_M / negatives_M).mean(),
            "repeated_share": (occurrences(keys.captions) > once).float().mean(),
        }

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return step_generator(
            purpose,
            run_seed=self._run_seed,
            incarnation=self._incarnation,
            rank=self._trainers.rank,
            step=step,
        )
