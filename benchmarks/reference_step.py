"""The same training step as one would first write it in PyTorch; `benchmarks.step` compares both.

Plain eager code over timm's ViT: autocast, one forward pass for each crop size, prototypes as a
weight-normalised linear layer, all their logits at once, Sinkhorn-Knopp on their exponentials,
default AdamW, a loop over the parameters for the teacher. Left out in its favour: any guard against
losses that are not finite, any figure for the console. Views and masks are given, as a data loader
would give them. One process; nothing here is used by the trainer, and the losses, the networks and
the update are written without it (tests/test_reference_step.py compares both).

Shapes: N images group by group, G and L crops of each, crop by crop, E embedding dimensions,
Z features, T tokens of a global crop, R masked tokens, K prototypes.
"""

import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from online_synclr.config.schema import TrainerConfig
from trainer.objective.blocks import block_arguments
from trainer.objective.masking import Mask
from trainer.objective.model import SynCLRModel
from trainer.objective.precision import computes_in_bf16
from trainer.objective.schedules import StepSettings
from trainer.objective.views import Views

UNDECAYED = ("pos_embed", "cls_token", "reg_token", "mask_token", "weight.original0")


class ReferenceNetwork(nn.Module):
    """ViT, mask token, projector, predictor (the student's) and masked-image head."""

    def __init__(self, trainer: TrainerConfig, *, student: bool) -> None:
        super().__init__()
        contrastive, mim = trainer.contrastive, trainer.mim
        self.vit = timm.create_model(
            trainer.backbone,
            **trainer.backbone_args,
            **block_arguments(trainer),
            img_size=trainer.crops.global_px,
            dynamic_img_size=True,
            drop_path_rate=trainer.drop_path if student else 0.0,
            num_classes=0,
        )
        width = self.vit.embed_dim
        self.projector = _mlp(
            width, contrastive.projector_hidden, contrastive.projector_layers, contrastive.out_dim
        )
        self.mim = _mim_mlp(width, mim.hidden, mim.layers, mim.bottleneck)
        self.prototypes = weight_norm(nn.Linear(mim.bottleneck, mim.prototypes, bias=False), dim=0)
        if student:
            self.mask_token = nn.Parameter(torch.zeros(width))
            self.predictor = _mlp(
                contrastive.out_dim,
                contrastive.predictor_hidden,
                contrastive.predictor_layers,
                contrastive.out_dim,
            )

    def tokens(self, images: torch.Tensor, mask_KT: torch.Tensor | None = None) -> torch.Tensor:
        """Class and patch tokens after the last norm: (K, 1 + T, E)."""
        x = self.vit.patch_embed(images)
        if mask_KT is not None:
            masked = mask_KT.view(x.shape[:3]).unsqueeze(-1)
            x = torch.where(masked, self.mask_token.to(x.dtype), x)
        tokens: torch.Tensor = self.vit.norm(self.vit.blocks(self.vit._pos_embed(x)))
        return tokens

    def patch_logits(self, tokens: torch.Tensor, mask_KT: torch.Tensor) -> torch.Tensor:
        """Logits (R, K) of the masked tokens."""
        chosen = tokens[:, self.vit.num_prefix_tokens :][mask_KT]
        logits: torch.Tensor = self.prototypes(functional.normalize(self.mim(chosen), dim=-1))
        return logits


class ReferenceStep:
    """Student, teacher, optimiser; call it with the views, the mask and the classes of one step."""

    def __init__(self, trainer: TrainerConfig, like: SynCLRModel, device: torch.device) -> None:
        """Start with the weights of a model of the trainer's.

        Raises:
            ValueError: the settings ask for what this step does not do.
        """
        if trainer.optimizer.name != "adamw" or not trainer.mim.weight:
            raise ValueError("the reference is AdamW with masked images; set both in trainer.")
        self.trainer = trainer
        self.device = device
        self.bf16 = computes_in_bf16(trainer.precision, device)
        self.student = ReferenceNetwork(trainer, student=True).to(device)
        self.teacher = ReferenceNetwork(trainer, student=False).to(device)
        self.student.load_state_dict(reference_state(like.student))
        self.teacher.load_state_dict(reference_state(like.teacher))
        self.teacher.requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(_groups(self.student), betas=trainer.optimizer.betas)

    def __call__(
        self, views: Views, mask: Mask, classes_N: torch.Tensor, settings: StepSettings
    ) -> torch.Tensor:
        """One step; the total loss, a float32 scalar. `classes_N`: int64, of each image."""
        loss = self.losses(views, mask, classes_N, settings.teacher_temperature)[0]
        self.optimizer.zero_grad()
        loss.backward()
        most = self.trainer.optimizer.clip_grad_norm
        if most > 0:
            nn.utils.clip_grad_norm_(self.student.parameters(), most)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr
            group["weight_decay"] = settings.weight_decay if group["decay"] else 0.0
        self.optimizer.step()
        self._move_teacher(settings.ema)
        return loss.detach()

    def losses(
        self, views: Views, mask: Mask, classes_N: torch.Tensor, teacher_temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total, global, local and masked-image loss, float32 scalars."""
        trainer = self.trainer
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                tokens = self.teacher.tokens(views.globals_)
                keys = self.teacher.projector(tokens[:, 0])
                targets = self.teacher.patch_logits(tokens, mask.mask_KT)
            tokens = self.student.tokens(views.globals_, mask.mask_KT)
            local_tokens = self.student.tokens(views.locals_)
            anchors = self.student.predictor(self.student.projector(tokens[:, 0]))
            local_anchors = self.student.predictor(self.student.projector(local_tokens[:, 0]))
            logits = self.student.patch_logits(tokens, mask.mask_KT)
        tau = trainer.contrastive.temperature
        key_classes = classes_N.repeat(trainer.crops.globals_per_image)
        local_classes = classes_N.repeat(trainer.crops.locals_per_image)
        global_ = contrastive(anchors, keys, key_classes, key_classes, tau, own_key=True)
        local = contrastive(local_anchors, keys, local_classes, key_classes, tau, own_key=False)
        target = sinkhorn(targets.float() / teacher_temperature, trainer.mim.sinkhorn_iterations)
        scores = logits.float() / trainer.mim.student_temperature
        mim = -(target * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()
        weights = trainer.contrastive
        total = weights.global_weight * global_ + weights.local_weight * local
        return total + trainer.mim.weight * mim, global_, local, mim

    @torch.no_grad()
    def _move_teacher(self, momentum: float) -> None:
        student = dict(self.student.named_parameters())
        for name, parameter in self.teacher.named_parameters():
            parameter.mul_(momentum).add_(student[name], alpha=1 - momentum)


def contrastive(
    anchors: torch.Tensor,
    keys: torch.Tensor,
    anchor_classes: torch.Tensor,
    key_classes: torch.Tensor,
    temperature: float,
    *,
    own_key: bool,
) -> torch.Tensor:
    """Mean cross-entropy of softmax(a.b / tau) under the uniform distribution of the positives.

    `own_key`: anchor i and key i are of one crop, which is left out.
    """
    anchors = functional.normalize(anchors.float(), dim=-1)
    keys = functional.normalize(keys.float(), dim=-1)
    logits = anchors @ keys.t() / temperature
    positive = (anchor_classes[:, None] == key_classes[None, :]).float()
    if own_key:
        own = torch.eye(len(logits), device=logits.device)
        logits = logits - 1e9 * own
        positive = positive * (1 - own)
    p = positive / positive.sum(dim=1, keepdim=True).clamp(min=1)
    return -(p * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def sinkhorn(tempered: torch.Tensor, iterations: int) -> torch.Tensor:
    """Targets (R, K) from s / T: columns, then rows are divided by their sums, so many times."""
    shares = tempered.exp()
    for _ in range(iterations):
        shares = shares / shares.sum(dim=0, keepdim=True)
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares


def reference_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a `Student` or `Teacher` under this file's names."""
    return {reference_name(name): value for name, value in network.state_dict().items()}


def reference_name(name: str) -> str:
    """The name here of a parameter of the trainer's networks."""
    direction, gain = ("prototypes.parametrizations.weight.original" + i for i in ("1", "0"))
    name = name.replace("mim_head.direction", direction).replace("mim_head.gain", gain)
    return name.replace("mim_head.mlp.", "mim.").removeprefix("backbone.")


def _groups(student: nn.Module) -> list[dict[str, object]]:
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        free = parameter.dim() < 2 or name.endswith(UNDECAYED)
        (rest if free else decayed).append(parameter)
    return [{"params": decayed, "decay": True}, {"params": rest, "decay": False}]


def _mlp(width: int, hidden: int, num_layers: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU()]
        width = hidden
    last = nn.Linear(width, out, bias=False)
    return nn.Sequential(*layers, last, nn.LayerNorm(out, elementwise_affine=False))


def _mim_mlp(width: int, hidden: int, num_layers: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, hidden), nn.GELU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, out))
