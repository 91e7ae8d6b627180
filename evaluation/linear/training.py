"""Training all heads at once.

Each step waits for the feature source and, with several ranks, for the sum of the gradients.

Shapes: N images of this rank's part of a batch, D features, H heads.
"""

import torch

from evaluation.bench import Bench
from evaluation.linear.order import num_steps
from evaluation.linear.probe import Probe
from evaluation.linear.probe_file import ProbeFile
from evaluation.linear.protocol import Protocol
from evaluation.linear.ranks import sum_over_ranks
from evaluation.linear.source import FeatureSource
from evaluation.progress import progress
from trainer.objective.schedules import cosine


def train_probe(
    probe: Probe, source: FeatureSource, protocol: Protocol, bench: Bench, file: ProbeFile
) -> None:
    """Train from the epoch that `probe` stands at to the last, saving to `file` on the way.

    The outcome is the same with any number of ranks, but for rounding.

    Raises:
        EvaluationError: the source cannot read an image.
        ValueError: a batch is larger than the training split; see `Protocol.fitted`.
    """
    steps = num_steps(source.num_images, protocol)
    if not steps:
        raise ValueError(f"{source.num_images} images fill no batch of {protocol.batch_images}")
    total = steps * protocol.epochs
    rates_H = probe.loss_H.new_tensor(protocol.peak_learning_rates)
    with progress(bench, "linear probe, steps", total - steps * probe.epochs) as advance:
        for epoch in range(probe.epochs, protocol.epochs):
            probe.loss_H.zero_()
            for number, (features_ND, labels_N) in enumerate(source.epoch(epoch)):
                probe.optimizer.param_groups[0]["lr"] = cosine(
                    epoch * steps + number, 1.0, 0.0, total=total
                )
                normalised_ND = probe.norm.train_step(features_ND, bench)
                loss_H = probe.heads.summed_loss(normalised_ND, labels_N) / protocol.batch_images
                _update(probe, loss_H, rates_H, bench)
                probe.loss_H += loss_H.detach()
                advance(1)
            sum_over_ranks(probe.loss_H, bench)
            probe.loss_H /= steps
            probe.epochs = epoch + 1
            file.save(probe, last=probe.epochs == protocol.epochs)


def _update(probe: Probe, loss_H: torch.Tensor, rates_H: torch.Tensor, bench: Bench) -> None:
    """One step of SGD from this rank's part of the mean losses.

    SGD with momentum is linear in the gradient, so a head's peak rate may as well scale its loss:
    then all heads are one parameter under one rate, the cosine.
    """
    probe.optimizer.zero_grad()
    (loss_H * rates_H).sum().backward()
    for parameter in probe.heads.parameters():
        assert parameter.grad is not None
        sum_over_ranks(parameter.grad, bench)
    probe.optimizer.step()
