"""One optimiser step.

    uint8 batch -> views -> teacher, student -> losses -> backward -> clip -> optimiser -> teacher

Up to the backward pass this may happen in parts (trainer.micro_batches); the rest happens once.

The host only queues work and never waits for the device: whether the loss is finite is a flag that
stays there, reduced over the trainers, and the optimiser leaves all as it was where it is set. The
collectives inside wait for the other trainers, which the vote before the step has made sure of.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from online_synclr.config import Config
from trainer.batch import Batch
from trainer.distributed import Trainers
from trainer.micro_batches import MicroBatches, OnTeacher
from trainer.objective.model import SynCLRModel, TeacherOutput
from trainer.objective.objective import LossParts, Objective
from trainer.objective.optimizer import apply_settings, build_optimizer
from trainer.objective.precision import network_dtype
from trainer.objective.rng import step_generator
from trainer.objective.schedules import StepSettings, step_settings
from trainer.objective.shards import own_parts
from trainer.objective.views import ViewMaker
from trainer.sharding import is_sharded, shard_if_asked
from trainer.step_meter import StepMeter, is_bad, non_finite_flags


class TrainStep:
    """The model with everything that changes it; call it with a batch and the step's number.

    After a step that was not finite the student and the optimiser are as before on every trainer.
    The teacher's average still moves towards that same student.
    """

    def __init__(
        self, config: Config, *, model: SynCLRModel, trainers: Trainers, incarnation: int
    ) -> None:
        self._config = config
        self._trainers = trainers
        self._incarnation = incarnation
        self.model = model = shard_if_asked(model, config.trainer, trainers)
        self.optimizer = build_optimizer(model.student, config.trainer.optimizer)
        self.meter = StepMeter(trainers.device, max_consecutive=config.trainer.max_non_finite_steps)
        self._parameters = list(model.student.parameters())
        self._micro_batches: MicroBatches | None = None
        self.on_teacher: OnTeacher = lambda output, batch: None
        """Told of the teacher's output at each step."""

    def __call__(self, batch: Batch, step: int) -> StepSettings:
        """Queue the step and return the scheduled values it uses."""
        settings = step_settings(self._config.trainer, step)
        self.optimizer.zero_grad()
        parts = self._backward(batch, step)
        norm = self._clip()
        flags = self._flag_non_finite(parts, norm)
        self._update(settings, is_bad(flags))
        self.model.ema.step(settings.ema)
        self.meter.add(parts, norm, flags)
        return settings

    def _backward(self, batch: Batch, step: int) -> LossParts:
        generator = step_generator(
            "views",
            run_seed=self._config.run.seed,
            incarnation=self._incarnation,
            rank=self._trainers.index,
            step=step,
        )
        return self._bound_micro_batches().backward(batch, step, generator)

    def _bound_micro_batches(self) -> MicroBatches:
        # Made at the first step: DistributedDataParallel must see the restored weights.
        if self._micro_batches is None:
            student = distribute(self.model.student, self._trainers)
            objective = Objective(
                self._config,
                student,
                self.model.teacher,
                self._trainers.device_group,
                incarnation=self._incarnation,
                frozen=self.model.frozen,
            )
            trainer = self._config.trainer
            dtype = network_dtype(trainer.precision, self._trainers.device)
            make_views = ViewMaker(trainer.crops, trainer.augment, dtype)
            self._micro_batches = MicroBatches(
                objective,
                student,
                make_views,
                num_parts=trainer.micro_batches,
                on_teacher=self._tell,
            )
        return self._micro_batches

    def _tell(self, output: TeacherOutput, batch: Batch) -> None:
        self.on_teacher(output, batch)

    def _clip(self) -> torch.Tensor:
        """Clip the gradients' total norm in place; the norm before, a device scalar."""
        norm = self._total_norm()
        most = self._config.trainer.optimizer.clip_grad_norm
        if most > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, most, norm)
        return norm

    def _total_norm(self) -> torch.Tensor:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(own_parts(gradients))
        if is_sharded(self.model.student):
            squared = norm.square()
            dist.all_reduce(squared, group=self._trainers.device_group)
            return squared.sqrt()
        return norm

    def _flag_non_finite(self, parts: LossParts, norm: torch.Tensor) -> torch.Tensor:
        """`non_finite_flags` on every trainer: 1.0 where any trainer's value is not finite."""
        flags = non_finite_flags(parts, norm)
        if self._trainers.device_group is not None:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._trainers.device_group)
        return flags

    def _update(self, settings: StepSettings, bad: torch.Tensor) -> None:
        apply_settings(self.optimizer, settings)
        self.optimizer.step(bad)


def distribute(student: nn.Module, trainers: Trainers) -> nn.Module:
    """The student with gradients averaged over the trainers; itself when there is one, or sharded.

    Nothing but gradients is exchanged: the networks have no buffers that change, such as batch
    statistics, and start equal on every rank.
    """
    if trainers.device_group is None or is_sharded(student):
        return student
    return DistributedDataParallel(
        student,
        device_ids=[trainers.device.index] if trainers.device.type == "cuda" else None,
        process_group=trainers.device_group,
        gradient_as_bucket_view=True,
    )
