"""The settings of a linear probe, and where they come from.

The paper (arXiv 2312.17742): SGD with momentum 0.9, 90 epochs, batches of 1024 images, no weight
decay, a cosine to zero, nine learning rates at once, an affine-free batch norm before the head. Its
authors evaluate with the linear probe of StableRep's public code (google-research/syn-rep-learn,
StableRep/main_linear.py with --use_bn), which has the rest: base rates are for 256 images and scale
with the batch, weights start from N(0, 0.01), the norm's eps is 1e-6, incomplete batches are left
out, the cosine falls with every step.
"""

import math
from dataclasses import dataclass, replace

from evaluation.errors import EvaluationError

BASE_LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""The paper has nine and does not list them, the public code ten: these and 0.3, which is the one
that is not in the series 1, 2, 5."""
REFERENCE_IMAGES = 256
"""Batch that a base learning rate is for."""
MOMENTUM = 0.9
INITIAL_STD = 0.01
NORM_EPS = 1e-6
NORM_MOMENTUM = 0.1
"""Of the running statistics, torch's default, which the public code keeps."""


@dataclass(frozen=True)
class Protocol:
    """What may be set of it.

    batch_images: of one step, over all ranks. learning_rates: base rates, increasing.

    Raises:
        EvaluationError: a value cannot be used; it names the option.
    """

    learning_rates: tuple[float, ...] = BASE_LEARNING_RATES
    epochs: int = 90
    batch_images: int = 1024

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise EvaluationError(f"--epochs={self.epochs}: give 1 or more.")
        if self.batch_images < 1:
            raise EvaluationError(f"--train-batch={self.batch_images}: give 1 or more.")
        if not self.learning_rates or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise EvaluationError("--learning-rates: give one or more, each above 0.")
        if list(self.learning_rates) != sorted(set(self.learning_rates)):
            raise EvaluationError("--learning-rates: give each once, from low to high.")

    def fitted(self, num_images: int, num_ranks: int) -> "Protocol":
        """The same with batches no larger than the training split.

        Raises:
            EvaluationError: a batch would leave a rank without an image.
        """
        batch_images = min(self.batch_images, num_images)
        if batch_images < num_ranks:
            raise EvaluationError(
                f"a step takes {batch_images} images (--train-batch={self.batch_images}, "
                f"{num_images} to train on), fewer than there are ranks; use at most "
                f"{max(batch_images, 1)} of {num_ranks} ranks."
            )
        return replace(self, batch_images=batch_images)

    @property
    def peak_learning_rates(self) -> tuple[float, ...]:
        """Where each head's cosine starts: base rate x batch / 256."""
        return tuple(rate * self.batch_images / REFERENCE_IMAGES for rate in self.learning_rates)
