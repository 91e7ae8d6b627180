"""The backbone with a linear classifier on its class token, and how fast each layer learns.

Shapes: N images, E embedding dimensions, C classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from online_synclr.config import ConfigError
from online_synclr.config.schema import SupervisedConfig, TrainerConfig
from online_synclr.seeds import derive_seed
from trainer.objective.backbone import build_backbone
from trainer.objective.optimizer import StudentOptimizer, decays

INIT_STD = 0.01
_BACKBONE = "backbone."
_MASK_TOKEN = "backbone.mask_token"


class Classifier(nn.Module):
    """`backbone` as in a run's student, so that checkpoints have its names; and `classifier`."""

    def __init__(self, trainer: TrainerConfig, num_classes: int, *, drop_path: float) -> None:
        super().__init__()
        self.backbone = build_backbone(trainer, drop_path=drop_path, mask_token=False)
        self.classifier = nn.Linear(self.backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=INIT_STD)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of normalised float images."""
        class_NE, _ = self.backbone.forward_tokens(images_N3HW)
        logits_NC: torch.Tensor = self.classifier(class_NE)
        return logits_NC


def build_classifier(
    trainer: TrainerConfig, num_classes: int, *, run_seed: int, drop_path: float
) -> Classifier:
    """A classifier, on the CPU, whose first weights depend on the seed alone.

    Raises:
        ConfigError: the backbone does not fit the settings.
    """
    fresh = trainer.model_copy(update={"pretrained": False})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed("classifier", run_seed))
        try:
            return Classifier(fresh, num_classes, drop_path=drop_path)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def load_backbone(classifier: Classifier, state: Mapping[str, torch.Tensor]) -> None:
    """Take a run's backbone, from its student's or teacher's state; the mask token stays behind.

    Raises:
        ConfigError: the settings make another backbone than the run's.
    """
    saved = {key: value for key, value in state.items() if key.startswith(_BACKBONE)}
    saved.pop(_MASK_TOKEN, None)
    own = classifier.state_dict()
    wanted = {key: value for key, value in own.items() if key.startswith(_BACKBONE)}
    for key in sorted({*saved, *wanted}):
        shapes = [tuple(one[key].shape) if key in one else "missing" for one in (saved, wanted)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"finetune: the run's backbone differs from the settings' at {key} ({shapes[0]} "
                f"there, {shapes[1]} here); leave trainer.backbone, trainer.backbone_args and "
                "trainer.crops.global_px as they were in the run."
            )
    classifier.load_state_dict({**own, **saved})


def build_optimizer(classifier: Classifier, settings: SupervisedConfig) -> StudentOptimizer:
    """AdamW; layer l of n learns at decay^(n - l) of the classifier's rate (BEiT, 2106.08254).

    What has no weight decay in a run has none here.
    """
    layer_of = _layers(classifier)
    last = max(layer_of.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in classifier.named_parameters():
        decay = decays(name, parameter)
        group = groups.setdefault(
            (layer_of[name], decay),
            {
                "params": [],
                "decay": decay,
                "rate": settings.layer_decay ** (last - layer_of[name]),
            },
        )
        group["params"].append(parameter)
    adamw = torch.optim.AdamW(
        list(groups.values()), lr=settings.peak_lr, betas=(0.9, 0.999), fused=True
    )
    return StudentOptimizer({"adamw": adamw})


def _layers(classifier: Classifier) -> dict[str, int]:
    """The layer of each parameter: 0 the embedding, then the blocks, last the classifier."""
    vit = classifier.backbone.vit
    matcher = vit.group_matcher(coarse=False)
    of_vit = group_parameters(vit, matcher, reverse=True)
    layers = {f"backbone.vit.{name}": layer for name, layer in of_vit.items()}
    last = max(layers.values()) + 1
    return {name: layers.get(name, last) for name, _ in classifier.named_parameters()}
