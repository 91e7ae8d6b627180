"""Student and teacher.

Shapes: N images, G and L crops of each, E embedding dimensions, Z features, T tokens of a global
crop, R masked tokens, P prototypes. Crop rows are ordered crop by crop.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from online_synclr.config.schema import DistillationConfig, TrainerConfig
from online_synclr.seeds import derive_seed
from trainer.distillation.head import DistillationHead, Features
from trainer.distillation.teacher import FrozenTeacher, build_frozen_teacher
from trainer.objective.backbone import Backbone, build_backbone
from trainer.objective.compiled import compile_networks
from trainer.objective.ema import EmaUpdate
from trainer.objective.heads import MimHead, build_predictor, build_projector
from trainer.objective.precision import unfuse_slow_attention


class StudentOutput(NamedTuple):
    """Anchors of both kinds of crops, and the masked tokens' features and their prototypes.

    With a frozen teacher also imitations of its features (`trainer.distillation.head.Features`).
    """

    globals_KZ: torch.Tensor
    locals_KZ: torch.Tensor
    patches_RZ: torch.Tensor | None
    prototypes_PZ: torch.Tensor | None
    imitated_class_KC: torch.Tensor | None = None
    imitated_patches_KTD: torch.Tensor | None = None


class TeacherOutput(NamedTuple):
    """Keys of the global crops, and the masked tokens' features and their prototypes.

    `features_KE`: class tokens of the global crops, which the keys are made of.
    """

    keys_KZ: torch.Tensor
    patches_RZ: torch.Tensor | None
    prototypes_PZ: torch.Tensor | None
    features_KE: torch.Tensor


def masked_images(trainer: TrainerConfig) -> bool:
    """Whether the masked-image loss is part of the objective."""
    return trainer.mim.weight > 0


def needs_teacher(trainer: TrainerConfig) -> bool:
    """Whether any loss reads what the EMA teacher says; not so where a frozen one says it all."""
    contrastive = trainer.contrastive
    weights = (contrastive.global_weight, contrastive.local_weight, trainer.mim.weight)
    return not trainer.distillation.teacher or any(weight > 0 for weight in weights)


class Student(nn.Module):
    """Backbone, projector, predictor and, with masked images, the MIM head.

    With a frozen teacher there is also a head that imitates it (`add_distillation_head`).

    One call of `forward` a step does everything that has gradients: DistributedDataParallel sees
    one forward pass in which every parameter takes part.
    """

    def __init__(self, trainer: TrainerConfig) -> None:
        super().__init__()
        with_mim = masked_images(trainer)
        self.backbone = build_backbone(trainer, drop_path=trainer.drop_path, mask_token=with_mim)
        embed_dim = self.backbone.embed_dim
        self.projector = build_projector(embed_dim, trainer.contrastive)
        self.predictor = build_predictor(trainer.contrastive)
        self.mim_head = MimHead(embed_dim, trainer.mim) if with_mim else None
        self.distillation_head: DistillationHead | None = None

    def add_distillation_head(self, settings: DistillationConfig, frozen: FrozenTeacher) -> None:
        """Have the student imitate `frozen`, too."""
        self.distillation_head = DistillationHead(
            self.backbone.embed_dim,
            settings,
            class_dim=frozen.class_dim,
            patch_dim=frozen.patch_dim,
        )

    def forward(
        self,
        globals_: torch.Tensor,
        locals_: torch.Tensor,
        mask_KT: torch.Tensor | None = None,
        index_R: torch.Tensor | None = None,
    ) -> StudentOutput:
        """One pass over all views; masked global crops are contrasted as well.

        Args:
            globals_: float (G * N, 3, g, g).
            locals_: float (L * N, 3, l, l), may be empty.
            mask_KT: bool (G * N, T); none without masked images.
            index_R: int64, the masked tokens in the flattened mask.

        Returns:
            Predictions, not normalised, and the masked tokens' features.
        """
        cls_KE, patches_KTE = self.backbone.forward_tokens(globals_, mask_KT)
        num_globals = cls_KE.shape[0]
        imitated = Features(None, None)
        if self.distillation_head is not None:
            imitated = self.distillation_head(cls_KE, patches_KTE)
        if locals_.shape[0]:
            cls_KE = torch.cat((cls_KE, self.backbone.forward_tokens(locals_)[0]))
        anchors_KZ = self.predictor(self.projector(cls_KE))
        patches_RZ, prototypes_PZ = _patches(self.mim_head, patches_KTE, index_R)
        return StudentOutput(
            anchors_KZ[:num_globals],
            anchors_KZ[num_globals:],
            patches_RZ,
            prototypes_PZ,
            *imitated,
        )


class Teacher(nn.Module):
    """Moving average of the student's backbone, projector and MIM head; never has a gradient."""

    def __init__(self, trainer: TrainerConfig) -> None:
        super().__init__()
        self.backbone: Backbone = build_backbone(trainer, drop_path=0.0, mask_token=False)
        embed_dim = self.backbone.embed_dim
        self.projector = build_projector(embed_dim, trainer.contrastive)
        self.mim_head = MimHead(embed_dim, trainer.mim) if masked_images(trainer) else None
        self.requires_grad_(False)
        self.eval()

    @torch.inference_mode()
    def forward(self, globals_: torch.Tensor, index_R: torch.Tensor | None = None) -> TeacherOutput:
        """Keys (not normalised) of the unmasked global crops, and features of the masked tokens.

        They are inference tensors: autograd cannot keep them, only what is computed from them.
        """
        cls_KE, patches_KTE = self.backbone.forward_tokens(globals_)
        patches_RZ, prototypes_PZ = _patches(self.mim_head, patches_KTE, index_R)
        # A copy: a view would keep all tokens for as long as it is there.
        return TeacherOutput(self.projector(cls_KE), patches_RZ, prototypes_PZ, cls_KE.clone())


@dataclass(frozen=True, slots=True)
class SynCLRModel:
    """Student and teacher of one run, and the update that ties them.

    `frozen`: the teacher of `trainer.distillation`, if there is one.
    """

    student: Student
    teacher: Teacher
    ema: EmaUpdate
    frozen: FrozenTeacher | None = None


def build_model(
    trainer: TrainerConfig, *, run_seed: int, device: torch.device | str = "cpu"
) -> SynCLRModel:
    """Build both networks, equal on every rank, the teacher a copy of the student.

    Args:
        trainer: the settings.
        run_seed: decides the initial weights; torch's own generators are left as they were.
        device: where the networks go. Wrap `student` in DistributedDataParallel afterwards.

    Returns:
        The model, in float32; the student in training mode, the teacher in evaluation mode.

    Raises:
        ValueError: the backbone does not fit (see `build_backbone`), or it cannot be compiled here.
        ConfigError: there is no such frozen teacher.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the GPUs' generators too, which are not restored.
        torch.default_generator.manual_seed(derive_seed("init", run_seed))
        student, teacher = Student(trainer), Teacher(trainer)
        frozen = build_frozen_teacher(trainer, student.backbone.patch_px)
        if frozen is not None:
            student.add_distillation_head(trainer.distillation, frozen)
            frozen.to(device)
    for network in (student, teacher):
        network.to(device)
        unfuse_slow_attention(network, trainer.precision, torch.device(device))
    if trainer.compile:
        compile_networks(student, teacher)
    ema = EmaUpdate(teacher, student)
    ema.copy()
    return SynCLRModel(student, teacher, ema, frozen)


def _patches(
    head: MimHead | None, patches_KTE: torch.Tensor, index_R: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if head is None or index_R is None:
        return None, None
    features_RZ, prototypes_PZ = head(patches_KTE.flatten(0, 1)[index_R])
    return features_RZ, prototypes_PZ
