"""Random generators of one training step.

Everything random in a step is drawn on the CPU from a generator keyed by (run seed, incarnation,
trainer rank, step): the same step has the same crops and masks on every kind of device, and the
sizes of data-dependent subsets are known on the host, so that no step waits for the device.
"""

import torch

from online_synclr.seeds import derive_seed


def step_generator(
    purpose: str, *, run_seed: int, incarnation: int, rank: int, step: int
) -> torch.Generator:
    """A CPU generator for one purpose ("views", "masks", ...) of one step of one trainer."""
    generator = torch.Generator("cpu")
    generator.manual_seed(derive_seed(purpose, run_seed, incarnation, rank, step))
    return generator


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to `device` without making the host wait for the device."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
