"""What may be set of the protocol, and the penalties that it tries."""

from dataclasses import dataclass

from evaluation.errors import EvaluationError

STRONGEST_L2, WEAKEST_L2 = 1e5, 1e-6
LEAST_TOLERANCE = 1e-8
"""About the root of float64's precision: a line search compares losses, and can see no more."""


@dataclass(frozen=True)
class Settings:
    """num_l2_values: penalties, log-spaced. max_iterations, tolerance: of each fit.

    The paper has 45 values. Iterations are the authors' public code's; its tolerance is none that
    float32 can reach, ours is a hundredth of scikit-learn's default.

    Raises:
        EvaluationError: a value cannot be used; it names the option.
    """

    num_l2_values: int = 45
    max_iterations: int = 1000
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_l2_values < 2:
            raise EvaluationError(f"--l2-values={self.num_l2_values}: give 2 or more.")
        if self.max_iterations < 1:
            raise EvaluationError(f"--max-iterations={self.max_iterations}: give 1 or more.")
        if not LEAST_TOLERANCE <= self.tolerance < 1:
            raise EvaluationError(
                f"--tolerance={self.tolerance:g}: give at least {LEAST_TOLERANCE:g}, which is what "
                "float64 can reach, and less than 1."
            )

    @property
    def l2_values(self) -> tuple[float, ...]:
        """From strong to weak."""
        steps = self.num_l2_values - 1
        ratio = WEAKEST_L2 / STRONGEST_L2
        return tuple(STRONGEST_L2 * ratio ** (step / steps) for step in range(steps + 1))
