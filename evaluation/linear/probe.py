"""A probe between two epochs: heads, norm, momentum, and how far it is.

Shapes: D features, C classes, H heads.
"""

from collections.abc import Mapping

import torch
from torch.optim import SGD

from evaluation.bench import Bench
from evaluation.linear.heads import JointHeads
from evaluation.linear.norm import FeatureNorm
from evaluation.linear.protocol import MOMENTUM, Protocol


class Probe:
    """epochs: done. loss_H: each head's mean training loss in the last of them."""

    def __init__(
        self, norm: FeatureNorm, num_classes: int, protocol: Protocol, bench: Bench
    ) -> None:
        num_heads = len(protocol.learning_rates)
        feature_dim = norm.mean_D.shape[0]
        heads = JointHeads(num_heads, num_classes, feature_dim, seed=bench.seed)
        self.heads = heads.to(bench.device)
        self.norm = norm.to(bench.device)
        self.optimizer = SGD(self.heads.parameters(), lr=0.0, momentum=MOMENTUM)
        for parameter in self.heads.parameters():
            self._set_momentum(parameter, torch.zeros_like(parameter))
        self.loss_H = torch.zeros(num_heads, device=bench.device)
        self.epochs = 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it but `epochs`, by name; the very tensors that training changes."""
        named = dict(self.heads.named_parameters())
        momentum = {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in named.items()
        }
        weights = {name: parameter.detach() for name, parameter in named.items()}
        norm = {f"norm.{name}": buffer for name, buffer in self.norm.named_buffers()}
        return weights | momentum | norm | {"loss_H": self.loss_H}

    def restore(self, tensors: Mapping[str, torch.Tensor], epochs: int) -> None:
        """Take up what `tensors` gave.

        Raises:
            ValueError: they are another probe's; this one is as it was.
        """
        own = self.tensors()
        if _shapes(own) != _shapes(tensors):
            raise ValueError("it is of another probe")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.epochs = epochs

    def _set_momentum(self, parameter: torch.Tensor, buffer: torch.Tensor) -> None:
        # SGD makes it at its first step otherwise, with the same outcome: 0.9 * 0 + gradient.
        self.optimizer.state[parameter]["momentum_buffer"] = buffer


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
