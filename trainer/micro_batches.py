"""The gradients of one batch, computed in one or more parts so that a small GPU can hold them.

    draw crops and masks for the whole batch -> deal it out
    -> teacher, part by part -> keys and Sinkhorn sums of all trainers, once
    -> for each part: views, student, losses, backward

The outcome does not depend on the number of parts, but for the order in which floats are summed
and for drop path, which draws for each pass anew: the student meets all keys of the whole global
batch in every part. What grows with the batch and not with the part is small: uint8 images, and
of the teacher keys and features of masked tokens. Global crops are made twice when there are
several parts, since those of the whole batch would not be small.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainer.batch import Batch
from trainer.gradient_sync import gradient_sync
from trainer.objective.model import TeacherOutput
from trainer.objective.objective import LossParts, Objective, Targets
from trainer.objective.parts import Part, deal
from trainer.objective.view_params import ViewParams
from trainer.objective.views import ViewMaker, Views

OnTeacher = Callable[[TeacherOutput, Batch], None]
"""Told what the teacher has made of a whole batch, before anything is compared with it."""


class MicroBatches:
    """Adds the gradients of batches to a student; the collectives are those of its objective."""

    def __init__(
        self,
        objective: Objective,
        student: nn.Module,
        make_views: ViewMaker,
        *,
        num_parts: int,
        on_teacher: OnTeacher = lambda output, batch: None,
    ) -> None:
        """Bind what a step is made of.

        Args:
            objective: of that student.
            student: as the objective has it, wrapped or not.
            make_views: makes the views of each part.
            num_parts: `trainer.micro_batches`.
            on_teacher: called once a batch.
        """
        self._on_teacher = on_teacher
        self._objective = objective
        self._student = student
        self._make_views = make_views
        self._num_parts = num_parts

    def backward(self, batch: Batch, step: int, generator: torch.Generator) -> LossParts:
        """Add the gradients of a batch, averaged over the trainers, to the student's.

        Args:
            batch: this rank's share; its images must divide by the number of parts.
            step: of the run, from 0.
            generator: of the views' parameters.

        Returns:
            The losses of the whole batch, without a graph. Nothing waits for the device.
        """
        images_NCHW = batch.images_NCHW
        num, _, height, width = images_NCHW.shape
        params = self._make_views.draw(num, height=height, width=width, generator=generator)
        mask = self._objective.draw_mask(num, step)
        parts = deal(num, self._num_parts, mask, device=images_NCHW.device)
        views = self._views(batch, params, parts[0]) if len(parts) == 1 else None
        targets = self._targets(batch, params, parts, views, step)
        losses = [
            self._backward_of(part, batch, params, views, targets, last=part is parts[-1])
            for part in parts
        ]
        return _sum(losses)

    def _targets(
        self,
        batch: Batch,
        params: ViewParams,
        parts: Sequence[Part],
        views: Views | None,
        step: int,
    ) -> Targets:
        ids = self._objective.identities(
            batch.captions_N2, batch.concepts_N2, batch.images_N2, step
        )
        if not self._objective.needs_teacher:
            return self._objective.targets(None, ids, step)
        outputs = [self._teach(parts[0], batch, params, views)]
        for part in parts[1:]:
            # The prototypes are the same for each part, and 65,536 of them are not small.
            output = self._teach(part, batch, params, views)
            outputs.append(output._replace(prototypes_PZ=None))
        output = _in_order(outputs, parts)
        self._on_teacher(output, batch)
        return self._objective.targets(output, ids, step)

    def _teach(
        self, part: Part, batch: Batch, params: ViewParams, views: Views | None
    ) -> TeacherOutput:
        if views is None:
            views = self._views(batch, params.only_globals(), part)
        return self._objective.teach(views.globals_, part.mask)

    def _backward_of(
        self,
        part: Part,
        batch: Batch,
        params: ViewParams,
        views: Views | None,
        targets: Targets,
        *,
        last: bool,
    ) -> LossParts:
        if views is None:
            views = self._views(batch, params, part)
        with gradient_sync(self._student, on=last):
            of_part = self._objective.with_frozen(targets.of(part), views)
            students = self._objective.predict(views, part.mask)
            losses = self._objective.compare(students, of_part)
            torch.autograd.backward(losses.total)
        return losses.detached()

    def _views(self, batch: Batch, params: ViewParams, part: Part) -> Views:
        if part.is_whole:
            return self._make_views.make(batch.images_NCHW, params)
        return self._make_views.make(
            batch.images_NCHW[part.rows_n], params.of_images(part.images_n)
        )


def _in_order(outputs: Sequence[TeacherOutput], parts: Sequence[Part]) -> TeacherOutput:
    """The whole batch's output: crops in its own order, masked tokens part after part."""
    if len(parts) == 1:
        return outputs[0]
    patches = [output.patches_RZ for output in outputs if output.patches_RZ is not None]
    return TeacherOutput(
        keys_KZ=_crops_in_order([output.keys_KZ for output in outputs], parts),
        patches_RZ=torch.cat(patches) if patches else None,
        prototypes_PZ=outputs[0].prototypes_PZ,
        features_KE=_crops_in_order([output.features_KE for output in outputs], parts),
    )


def _crops_in_order(rows_KD: Sequence[torch.Tensor], parts: Sequence[Part]) -> torch.Tensor:
    """Rows of the crops of all parts, as if the batch had been one."""
    dims = rows_KD[0].shape[1]
    crops = rows_KD[0].shape[0] // len(parts[0].images_n)
    all_GND = rows_KD[0].new_empty((crops, parts[0].num_images, dims))
    for part, rows in zip(parts, rows_KD, strict=True):
        all_GND.index_copy_(1, part.rows_n, rows.view(crops, -1, dims))
    return all_GND.flatten(0, 1)


def _sum(losses: Sequence[LossParts]) -> LossParts:
    total = losses[0]
    for part in losses[1:]:
        total = total.plus(part)
    return total
