"""The frozen teacher: any model of timm's, seen through the student's views.

Views come normalised as the student wants them, at its size. The teacher gets them at a side of its
own, normalised as it was trained, and its patch tokens are brought to the student's grid.

Shapes: K global crops of g x g pixels, p pixels of the teacher's input, T = s * s patch tokens of
the student's, C and D dimensions of the teacher's pooled feature and of its patch tokens.
"""

import torch
import xxhash
from torch import nn
from torch.nn import functional

from online_synclr.config import ConfigError
from online_synclr.config.schema import DistillationConfig, TrainerConfig
from trainer.distillation.head import Features
from trainer.distillation.sources import KEY, Source, open_source
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD


class FrozenTeacher(nn.Module):
    """Never has a gradient and is in no checkpoint, but for its `identity`.

    `image_px`: p. `identity`: hex digest over weights and input; equal ones teach the same.
    """

    scale_311: torch.Tensor
    shift_311: torch.Tensor

    def __init__(self, source: Source, settings: DistillationConfig, *, side: int) -> None:
        """Wrap a model.

        Args:
            source: the model and its input.
            settings: what it teaches.
            side: s, tokens of a row of the student's global crops.
        """
        super().__init__()
        self.model = source.model
        self.image_px = source.image_px
        self._side = side
        self._settings = settings
        scale, shift = _renormalised(source)
        self.register_buffer("scale_311", scale, persistent=False)
        self.register_buffer("shift_311", shift, persistent=False)
        self.identity = _identity(source)
        self.requires_grad_(False)
        self.eval()

    @property
    def class_dim(self) -> int:
        """C."""
        return int(getattr(self.model, "head_hidden_size", self.model.num_features))  # type: ignore[arg-type]

    @property
    def patch_dim(self) -> int:
        """D."""
        return int(self.model.num_features)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in evaluation mode, whatever it is a part of."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, globals_K3gg: torch.Tensor) -> Features:
        """Features of global crops, normalised as the views are.

        Not in inference mode: the loss keeps them for its backward pass.
        """
        maps = self.model.forward_features(self._as_trained(globals_K3gg))  # type: ignore[operator]
        pooled_KC: torch.Tensor | None = None
        if self._settings.class_weight:
            pooled_KC = self.model.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        patches_KTD = self._patches(maps) if self._settings.patch_weight else None
        return Features(pooled_KC, patches_KTD)

    def _as_trained(self, images_K3gg: torch.Tensor) -> torch.Tensor:
        images_K3pp = images_K3gg
        if images_K3gg.shape[-1] != self.image_px:
            # Float32: CPUs have no bicubic antialiasing in bf16.
            size = (self.image_px, self.image_px)
            images_K3pp = functional.interpolate(
                images_K3gg.float(), size, mode="bicubic", antialias=True
            )
        return torch.addcmul(self.shift_311, images_K3pp, self.scale_311)

    def _patches(self, maps: torch.Tensor) -> torch.Tensor:
        """From (K, prefix + tokens, D), (K, rows, columns, D) or (K, D, rows, columns)."""
        if maps.dim() == 3:
            tokens_KTD = maps[:, self.model.num_prefix_tokens :]
            rows = round(tokens_KTD.shape[1] ** 0.5)
            maps = tokens_KTD.reshape(len(maps), rows, -1, self.patch_dim)
        maps_KDHW = maps if maps.shape[1] == self.patch_dim else maps.movedim(-1, 1)
        size = (self._side, self._side)
        if maps_KDHW.shape[-2:] != size:
            maps_KDHW = functional.interpolate(
                maps_KDHW.float(), size, mode="bilinear", antialias=True
            )
        return maps_KDHW.flatten(2).transpose(1, 2)


def build_frozen_teacher(trainer: TrainerConfig, patch_px: int) -> FrozenTeacher | None:
    """The teacher of the settings, on the CPU in float32; none if there is none.

    torch's own generators are left as they were.

    Args:
        trainer: `distillation` and `crops` are read.
        patch_px: of the student.

    Raises:
        ConfigError: there is none of that name, or it cannot teach what has a weight.
    """
    settings = trainer.distillation
    if not settings.teacher:
        return None
    side = trainer.crops.global_px // patch_px

    def choose_px(patch: int | None) -> int | None:
        if settings.teacher_px is not None:
            _check_px(settings.teacher_px, patch)
            return settings.teacher_px
        return trainer.crops.global_px if patch is None else side * patch

    with torch.random.fork_rng(devices=[]):
        source = open_source(settings.teacher, choose_px)
    frozen = FrozenTeacher(source, settings, side=side)
    _check_teaches(frozen, settings)
    return frozen


def _check_px(teacher_px: int, patch: int | None) -> None:
    if patch is not None and teacher_px % patch:
        raise ConfigError(
            f"trainer.distillation.teacher_px={teacher_px} is not a multiple of the teacher's "
            f"patch of {patch}; set it to {max(1, round(teacher_px / patch)) * patch}."
        )


def _check_teaches(frozen: FrozenTeacher, settings: DistillationConfig) -> None:
    """One crop through the outline of the model tells what a step would stumble on."""
    try:
        features = frozen(torch.zeros(1, 3, frozen.image_px, frozen.image_px))
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{KEY}: {settings.teacher} cannot teach from {frozen.image_px} px ({reason[:300]}); "
            "set trainer.distillation.teacher_px to its own size, or its patch_weight to 0."
        ) from None
    dims = (frozen.class_dim, frozen.patch_dim)
    for one, dim in zip(features, dims, strict=True):
        if one is not None and one.shape[-1] != dim:
            raise ConfigError(
                f"{KEY}: {settings.teacher} gives features of {one.shape[-1]} dimensions where "
                f"timm says {dim}; name another one."
            )


def _renormalised(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and summand that turn the views' normalisation into the teacher's, (3, 1, 1) each."""
    mean, std = torch.tensor(source.mean), torch.tensor(source.std)
    own_mean, own_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (own_std / std)[:, None, None], ((own_mean - mean) / std)[:, None, None]


def _identity(source: Source) -> str:
    digest = xxhash.xxh3_128()
    for name, value in sorted(source.model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(f"{source.mean} {source.std} {source.image_px}".encode())
    return digest.hexdigest()
