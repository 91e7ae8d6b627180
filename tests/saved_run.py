"""A run's folder with a checkpoint whose networks are random, and differ from each other."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from online_synclr.config import Config
from tests.test_checkpoint import make_config, make_intake, save, use_intake
from tests.tiny_step import tiny_step
from trainer.objective.model import SynCLRModel

STEP = 3


def saved_run(run_dir: Path, step: int = STEP, **trainer: Any) -> tuple[Config, SynCLRModel]:
    """Save one checkpoint; returns the settings and the networks that are in it."""
    config = make_config(run_dir, **trainer)
    train, intake = tiny_step(config), make_intake(config)
    for number, network in enumerate((train.model.student, train.model.teacher)):
        scatter(network, seed=step + number)
    use_intake(intake, config, 14)
    save(run_dir, config, step, train, intake)
    return config, train.model


@torch.no_grad()
def scatter(network: nn.Module, seed: int) -> None:
    """Give every weight a value of its own, so that none that is left out goes unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
