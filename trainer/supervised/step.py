"""One optimiser step of the supervised phase, and what is told of the steps.

    uint8 batch -> views -> logits -> cross-entropy -> backward -> clip -> AdamW -> average

Nothing in a step waits for the device: whether its gradients are finite is a flag there, at which
the optimiser leaves all as it was. They are averaged over the ranks, so all ranks have the same.

Shapes: N images of this rank, C classes.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from online_synclr.config import Config
from online_synclr.config.schema import SupervisedConfig
from online_synclr.seeds import derive_seed
from trainer.distributed import Trainers
from trainer.objective.compiled import compile_networks
from trainer.objective.ema import EmaUpdate
from trainer.objective.precision import autocast, network_dtype, unfuse_slow_attention
from trainer.objective.rng import step_generator
from trainer.objective.schedules import learning_rate
from trainer.objective.views import ViewMaker
from trainer.step import distribute
from trainer.supervised.loading import LabelledBatch
from trainer.supervised.network import Classifier, build_optimizer


@dataclass(frozen=True)
class StepReading:
    """Means over all ranks and the finite steps since the last reading; NaN when there were none.

    `num_images`: of all ranks and steps.
    """

    loss: float
    accuracy: float
    num_images: int


class SupervisedStep:
    """Student, its average and the optimiser; call it with a batch and the step's number."""

    def __init__(self, config: Config, student: Classifier, ema: Classifier, trainers: Trainers):
        """Take networks on the CPU, equal on all ranks, to this rank's device.

        Raises:
            ConfigError: the settings ask for torch.compile and it cannot be had here.
        """
        self._config = config
        self._trainers = trainers
        self._settings: SupervisedConfig = config.trainer.supervised
        device, precision = trainers.device, config.trainer.precision
        for network in (student, ema):
            network.to(device)
            unfuse_slow_attention(network, precision, device)
        if config.trainer.compile:
            compile_networks(student, ema)
        self.student, self.ema = student.train(), ema.requires_grad_(False).eval()
        self._average = EmaUpdate(ema, student)
        self.optimizer = build_optimizer(student, self._settings)
        self._parameters = list(student.parameters())
        self._distributed: nn.Module | None = None
        crops = config.trainer.crops.model_copy(
            update={"globals_per_image": 1, "locals_per_image": 0}
        )
        dtype = network_dtype(precision, device)
        self._make_views = ViewMaker(crops, config.trainer.augment, dtype)
        self._sums = torch.zeros(4, device=device)

    def start_average(self) -> None:
        """The average begins at the student's weights."""
        self._average.copy()

    def __call__(self, batch: LabelledBatch, step: int) -> float:
        """Queue the step and return its learning rate."""
        device = self._trainers.device
        images_N3SS = batch.images_N3SS.to(device, non_blocking=True)
        labels_N = batch.labels_N.to(device, non_blocking=True)
        views = self._views(images_N3SS, step)
        if self._settings.drop_path:
            # So that a phase that goes on drops the paths that it would have dropped.
            seeds = self._config.run.seed, self._trainers.index, step
            torch.manual_seed(derive_seed("labelled drop path", *seeds))
        self.optimizer.zero_grad()
        with autocast(self._config.trainer.precision, device):
            logits_NC = self._network()(views)
        loss = functional.cross_entropy(
            logits_NC.float(), labels_N, label_smoothing=self._settings.label_smoothing
        )
        torch.autograd.backward(loss)
        bad = 1.0 - torch.isfinite(self._clip()).float()
        rate = self._set_rate(step)
        self.optimizer.step(bad)
        self._average.step(min(self._settings.ema, (1 + step) / (10 + step)))
        self._note(loss.detach(), logits_NC.detach(), labels_N, bad)
        return rate

    def read(self) -> StepReading:
        """Wait for the device and all ranks; forgets what was read."""
        sums = self._sums.clone()
        self._sums.zero_()
        if self._trainers.device_group is not None:
            dist.all_reduce(sums, group=self._trainers.device_group)
        loss, correct, finite, images = sums.tolist()
        if not finite:
            return StepReading(math.nan, math.nan, int(images))
        return StepReading(loss / finite, correct / finite, int(images))

    def _views(self, images_N3SS: torch.Tensor, step: int) -> torch.Tensor:
        """Parameters are drawn for all ranks' images: how many ranks there are changes nothing."""
        num, side = images_N3SS.shape[0], images_N3SS.shape[-1]
        generator = step_generator(
            "labelled views", run_seed=self._config.run.seed, incarnation=0, rank=0, step=step
        )
        params = self._make_views.draw(
            num * self._trainers.size, height=side, width=side, generator=generator
        )
        first = num * self._trainers.index
        own = params.of_images(torch.arange(first, first + num))
        return self._make_views.make(images_N3SS, own).globals_

    def _network(self) -> nn.Module:
        # Made at the first step: DistributedDataParallel must see the restored weights.
        if self._distributed is None:
            self._distributed = distribute(self.student, self._trainers)
        return self._distributed

    def _clip(self) -> torch.Tensor:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._settings.clip_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._settings.clip_grad_norm, norm)
        return norm

    def _set_rate(self, step: int) -> float:
        settings = self._settings
        rate = learning_rate(
            step,
            peak=settings.peak_lr,
            final=settings.final_lr,
            warmup=settings.warmup_steps,
            total=settings.steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
            group["weight_decay"] = settings.weight_decay if group["decay"] else 0.0
        return rate

    def _note(
        self, loss: torch.Tensor, logits_NC: torch.Tensor, labels_N: torch.Tensor, bad: torch.Tensor
    ) -> None:
        """Sums over the finite steps' images; the last one is of all steps."""
        num = float(len(labels_N))
        correct = (logits_NC.argmax(dim=1) == labels_N).float().sum()
        finite = 1.0 - bad
        sums = torch.stack((loss * num, correct, correct.new_tensor(num)))
        self._sums[:3] += torch.where(bad > 0, torch.zeros_like(sums), sums * finite)
        self._sums[3] += num
