"""The losses of one step: contrastive on global crops, on local crops, and masked images.

    teach -> targets -> (predict -> compare) for each part of the batch

All that the student is compared with has no gradient and is small: keys, and features of masked
tokens. And every loss is a mean over anchors or tokens. So the student may see the batch in parts:
their losses, and gradients, add up to those of the whole, whatever their number.

A frozen teacher (`trainer.distillation`) looks at each part's crops right before the student does:
what it says needs no other trainer.

Shapes: N images on this rank, n of them in a part, G global crops of each, K = G * N keys, M keys
of all trainers, R masked tokens on this rank.
"""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

from online_synclr.config.schema import Config
from trainer.distillation.head import Features, distillation_loss
from trainer.distillation.teacher import FrozenTeacher
from trainer.objective.contrastive import Candidates, candidates, contrastive_loss
from trainer.objective.gather import Trainers
from trainer.objective.ids import occurrences
from trainer.objective.masking import Mask, draw_mask
from trainer.objective.mim import Targets as PatchTargets
from trainer.objective.mim import mim_loss
from trainer.objective.model import (
    StudentOutput,
    Teacher,
    TeacherOutput,
    masked_images,
    needs_teacher,
)
from trainer.objective.parts import Part
from trainer.objective.patch_scores import PatchScores
from trainer.objective.precision import autocast
from trainer.objective.rng import step_generator, to_device
from trainer.objective.schedules import step_settings
from trainer.objective.shuffle import exchanged
from trainer.objective.sinkhorn import sinkhorn_log_scale
from trainer.objective.views import Views


@dataclass(frozen=True, slots=True)
class LossParts:
    """Float32 scalars on the device; `total` is the weighted sum and alone needs a backward.

    `distillation`: none without a frozen teacher.

    Those of a part of the batch are its share: the parts' sum is the whole's. `metrics` are without
    gradient, equal on every rank and in every part: `same_concept_share`, of the candidates that
    are not positives those of the image's own concept, mean over the images (possible false
    negatives); `repeated_share`, the groups of the global batch whose caption occurs again in it.
    """

    total: torch.Tensor
    global_: torch.Tensor
    local: torch.Tensor
    mim: torch.Tensor
    metrics: dict[str, torch.Tensor]
    distillation: torch.Tensor | None = None

    def detached(self) -> "LossParts":
        """The same figures without the graph behind them."""
        return LossParts(
            self.total.detach(),
            self.global_.detach(),
            self.local.detach(),
            self.mim.detach(),
            self.metrics,
            None if self.distillation is None else self.distillation.detach(),
        )

    def plus(self, other: "LossParts") -> "LossParts":
        """Sum of the losses of two parts of one step, whose metrics are the same."""
        return LossParts(
            self.total + other.total,
            self.global_ + other.global_,
            self.local + other.local,
            self.mim + other.mim,
            self.metrics,
            None
            if self.distillation is None or other.distillation is None
            else self.distillation + other.distillation,
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What the student of a step is compared with; nothing in it has a gradient.

    `against`: none where only a frozen teacher teaches. `patches`: none without masked images.
    `share`: of the rank's images, how many these are for. `taught`: the frozen teacher's features;
    none without one, or while they are not there.
    """

    against: Candidates | None
    patches: PatchTargets | None
    share: float
    metrics: dict[str, torch.Tensor]
    taught: Features | None = None

    def of(self, part: Part) -> "Targets":
        """The targets of a part of the images those of the whole batch are for."""
        if part.is_whole:
            return self
        return replace(
            self,
            against=None if self.against is None else self.against.of_images(part.rows_n),
            patches=None if self.patches is None else self.patches.of_tokens(part.tokens),
            share=part.share,
        )


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

    Every trainer calls `targets` (or `losses`, which does) for the same step with equally many
    images. It waits for the other trainers where keys and Sinkhorn sums meet; the vote before the
    step makes sure that they come.
    """

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: Teacher,
        process_group: "dist.ProcessGroup | None" = None,
        *,
        incarnation: int = 0,
        frozen: FrozenTeacher | None = None,
    ) -> None:
        """Bind the networks.

        Args:
            config: the whole settings; `trainer`, `run.seed` and `images_per_group` are read.
            student: a `Student`, or one wrapped in DistributedDataParallel.
            teacher: the teacher, on the same device.
            process_group: the trainers', or none for a single one.
            incarnation: of the run; with seed, rank and step it keys masks and exchanges.
            frozen: the teacher of `trainer.distillation`, on the same device.
        """
        self._trainer = config.trainer
        self._run_seed = config.run.seed
        self._incarnation = incarnation
        self._images_per_group = config.images_per_group
        self._student = student
        self._teacher = teacher
        self._frozen = frozen
        self._trainers = Trainers(process_group)

    def losses(
        self,
        views: Views,
        class_ids: torch.Tensor,
        concept_ids: torch.Tensor,
        image_ids: torch.Tensor,
        step: int,
    ) -> LossParts:
        """Forward passes and losses of a whole batch at once, without a wait for the device.

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
        mask = self.draw_mask(views.num_images, step)
        if mask is not None:
            mask = mask.to(views.globals_.device)
        ids = self.identities(class_ids, concept_ids, image_ids, step)
        teachers = self.teach(views.globals_, mask) if self.needs_teacher else None
        targets = self.with_frozen(self.targets(teachers, ids, step), views)
        return self.compare(self.predict(views, mask), targets)

    @property
    def needs_teacher(self) -> bool:
        """Whether the EMA teacher has to look at the crops at all."""
        return needs_teacher(self._trainer)

    def draw_mask(self, num_images: int, step: int) -> Mask | None:
        """The step's mask, on the CPU; none when masked images are not part of the objective."""
        if not masked_images(self._trainer):
            return None
        crops = self._trainer.crops
        side = crops.global_px // self._teacher.backbone.patch_px
        return draw_mask(
            crops.globals_per_image * num_images,
            side * side,
            self._trainer.mim,
            generator=self._generator("masks", step),
        )

    def identities(
        self, captions: torch.Tensor, concepts: torch.Tensor, images: torch.Tensor, step: int
    ) -> Identities:
        """Those of this rank's images, int64 (N, 2) each; exchanged in the control experiment."""
        choice = {"caption": captions, "image": images, "concept": concepts}
        ids = Identities(choice[self._trainer.contrastive.positives], concepts, captions)
        return self._exchange(ids, step)

    def teach(self, globals_: torch.Tensor, mask: Mask | None) -> TeacherOutput:
        """The teacher's pass, in the precision of the settings."""
        with autocast(self._trainer.precision, globals_.device):
            output: TeacherOutput = self._teacher(globals_, None if mask is None else mask.index_R)
        return output

    def predict(self, views: Views, mask: Mask | None) -> StudentOutput:
        """The student's pass, in the precision of the settings."""
        mask_KT, index_R = (None, None) if mask is None else (mask.mask_KT, mask.index_R)
        with autocast(self._trainer.precision, views.globals_.device):
            output: StudentOutput = self._student(views.globals_, views.locals_, mask_KT, index_R)
        return output

    def targets(self, teachers: TeacherOutput | None, ids: Identities, step: int) -> Targets:
        """What to compare the student with; here trainers meet. `ids` are of this rank's images.

        `teachers`: none where only a frozen teacher teaches.
        """
        num_keys = self._trainer.crops.globals_per_image * ids.classes.shape[0]
        keys = self._gather_identities(ids, num_keys)
        if teachers is None:
            return Targets(None, None, 1.0, self._metrics(keys))
        against = self._candidates(teachers.keys_KZ, ids, keys)
        return Targets(against, self._patch_targets(teachers, step), 1.0, self._metrics(keys))

    def with_frozen(self, targets: Targets, views: Views) -> Targets:
        """The targets with the frozen teacher's, if there is one, of the images they are for.

        No trainers meet in it but those that a sharded teacher is spread over.
        """
        if self._frozen is None:
            return targets
        with autocast(self._trainer.precision, views.globals_.device):
            return replace(targets, taught=self._frozen(views.globals_))

    def compare(self, students: StudentOutput, targets: Targets) -> LossParts:
        """The losses of all images that the targets are for."""
        settings = self._trainer.contrastive
        against, tau, share = targets.against, settings.temperature, targets.share
        if against is None:
            # Zero, and gradients of zero: every parameter takes part in averaging them.
            global_ = 0.0 * students.globals_KZ.float().sum()
            local = 0.0 * students.locals_KZ.float().sum()
        else:
            global_ = contrastive_loss(students.globals_KZ, against, temperature=tau, own_key=True)
            local = contrastive_loss(students.locals_KZ, against, temperature=tau, own_key=False)
        global_, local = share * global_, share * local
        mim = self._mim(students, targets.patches)
        total = settings.global_weight * global_ + self._trainer.mim.weight * mim
        total = total + settings.local_weight * local
        distillation = self._distillation(students, targets)
        if distillation is not None:
            total = total + distillation
        return LossParts(total, global_, local, mim, targets.metrics, distillation)

    def _distillation(self, students: StudentOutput, targets: Targets) -> torch.Tensor | None:
        if targets.taught is None:
            return None
        imitated = Features(students.imitated_class_KC, students.imitated_patches_KTD)
        settings = self._trainer.distillation
        return targets.share * distillation_loss(imitated, targets.taught, settings)

    def _patch_targets(self, teachers: TeacherOutput, step: int) -> PatchTargets | None:
        if teachers.patches_RZ is None or teachers.prototypes_PZ is None:
            return None
        scores = PatchScores(teachers.patches_RZ, teachers.prototypes_PZ)
        temperature = step_settings(self._trainer, step).teacher_temperature
        with autocast(self._trainer.precision, teachers.patches_RZ.device):
            log_scale_P = sinkhorn_log_scale(
                scores,
                temperature=temperature,
                iterations=self._trainer.mim.sinkhorn_iterations,
                trainers=self._trainers,
            )
        return PatchTargets(scores, log_scale_P, temperature, teachers.patches_RZ.shape[0])

    def _mim(self, students: StudentOutput, targets: PatchTargets | None) -> torch.Tensor:
        if students.patches_RZ is None or students.prototypes_PZ is None or targets is None:
            return students.globals_KZ.new_zeros((), dtype=torch.float32)
        with autocast(self._trainer.precision, students.patches_RZ.device):
            return mim_loss(
                PatchScores(students.patches_RZ, students.prototypes_PZ),
                targets,
                temperature=self._trainer.mim.student_temperature,
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
