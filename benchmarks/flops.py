"""What a training step has to multiply, and how fast the device multiplies.

Model FLOPs of one step and rank, two a multiply-add, of matrix products alone:

    student  3 x (G x crop(g) + L x crop(l) - patches)   forward, gradients of inputs and of weights
    teacher  1 x G x crop(g)
    heads    3 x (G + L) x (projector + predictor) + 1 x G x projector
    MIM      3 x R x (head + Z x K) + 1 x R x (head + Z x K)     R masked tokens, K prototypes
    keys     2 x (G + L) x M x Z          M keys of all trainers; they have no gradient
    frozen   1 x G x crop(p) + 3 x G x (E x C + T x E x D)    the teacher of trainer.distillation,
             its pooled feature C and patch tokens D wide; alone, without EMA teacher and keys

a crop with n tokens, E wide:  patches + blocks x (2 n x weights of a block + 4 n^2 E)

    n            class token, registers and (side / p)^2 patches
    weights      4 E^2 of attention; 8 E^2 of a plain MLP of 4 E, and of a SwiGLU of 8/3 E, whose
                 width is rounded up to a multiple of 8: 3 E x 8 ceil(E / 3)
    LayerScale   multiplies elements, not matrices: nothing

The patches' products, n x 3 p^2 x E, have no gradient of their input, hence the minus. What is
computed twice (recomputed blocks, chunks of logits, the scores inside fused attention) counts once;
norms, softmax, Sinkhorn-Knopp, views, optimiser and teacher's average do not count at all. So the
share of the matmul rate is what is left of the device after all of those.
"""

import time

import torch
from timm.models import VisionTransformer
from torch import nn

from online_synclr.config.schema import Config
from trainer.objective.backbone import Backbone
from trainer.objective.masking import masked_counts
from trainer.objective.model import SynCLRModel, needs_teacher

MATMUL_SIDE = {"cuda": 8192, "cpu": 2048}
"""Large enough for the device's best rate; a product takes some 1.5 ms on an H100."""


def step_flops(config: Config, model: SynCLRModel, num_trainers: int = 1) -> float:
    """Model FLOPs of one step on one of `num_trainers` equal ranks, by the formula above."""
    trainer = config.trainer
    crops = trainer.crops
    num = trainer.batch_groups * config.images_per_group // num_trainers
    backbone = model.student.backbone
    globals_, locals_ = crops.globals_per_image * num, crops.locals_per_image * num
    of_global, of_local = crop_flops(backbone, crops.global_px), 0.0
    patches = globals_ * patch_flops(backbone, crops.global_px)
    if locals_:
        of_local = crop_flops(backbone, crops.local_px)
        patches += locals_ * patch_flops(backbone, crops.local_px)
    student = 3.0 * (globals_ * of_global + locals_ * of_local) - patches
    projector, predictor = _linear(model.student.projector), _linear(model.student.predictor)
    heads = 3.0 * (globals_ + locals_) * (projector + predictor)
    frozen = _frozen_flops(config, model, globals_)
    if not needs_teacher(trainer):
        return student + heads + frozen
    teacher = globals_ * (of_global + projector)
    keys = 2.0 * (globals_ + locals_) * 2.0 * globals_ * num_trainers * trainer.contrastive.out_dim
    return student + teacher + heads + keys + frozen + _mim_flops(config, model, globals_)


def crop_flops(backbone: Backbone, side_px: int) -> float:
    """One forward pass of one crop."""
    vit = backbone.vit
    tokens = (side_px // backbone.patch_px) ** 2 + vit.num_prefix_tokens
    attention = sum(4.0 * tokens**2 * block.attn.attn_dim for block in vit.blocks)
    return patch_flops(backbone, side_px) + tokens * _linear(vit.blocks) + attention


def patch_flops(backbone: Backbone, side_px: int) -> float:
    """The patch embedding of one crop."""
    weight = backbone.vit.patch_embed.proj.weight
    return 2.0 * (side_px // backbone.patch_px) ** 2 * weight.numel()


def _mim_flops(config: Config, model: SynCLRModel, num_globals: int) -> float:
    head = model.student.mim_head
    if head is None:
        return 0.0
    crops = config.trainer.crops
    tokens = (crops.global_px // model.student.backbone.patch_px) ** 2
    masked, tokens_each = masked_counts(num_globals, tokens, config.trainer.mim)
    return 4.0 * masked * tokens_each * (_linear(head.mlp) + 2.0 * head.direction.numel())


def _frozen_flops(config: Config, model: SynCLRModel, num_globals: int) -> float:
    """Of a ViT that teaches in `trainer.distillation`."""
    frozen, head = model.frozen, model.student.distillation_head
    if frozen is None or head is None:
        return 0.0
    if not isinstance(frozen.model, VisionTransformer):
        raise ValueError(f"the formula is for ViTs, not for {type(frozen.model).__name__}")
    tokens = (config.trainer.crops.global_px // model.student.backbone.patch_px) ** 2
    of_class = 0.0 if head.of_class is None else _linear(head.of_class)
    of_patches = 0.0 if head.of_patches is None else tokens * _linear(head.of_patches)
    of_crop = crop_flops(Backbone(frozen.model, mask_token=False), frozen.image_px)
    return num_globals * (of_crop + 3.0 * (of_class + of_patches))


def _linear(module: nn.Module) -> float:
    """FLOPs of one row through every linear layer inside."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(2.0 * layer.weight.numel() for layer in layers)


def matmul_rate(device: torch.device, dtype: torch.dtype, least_s: float = 0.2) -> float:
    """FLOP/s of large square products, queued one after the other for about `least_s`."""
    side = MATMUL_SIDE[device.type]
    left, right = (torch.randn((side, side), device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    torch.mm(left, right, out=out)
    num, taken_s = 1, 0.0
    while True:
        taken_s = _products_s(left, right, out, num)
        if taken_s >= least_s:
            return num * 2.0 * side**3 / taken_s
        num *= 2


def _products_s(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, num: int) -> float:
    synchronise(left.device)
    started_s = time.perf_counter()
    for _ in range(num):
        torch.mm(left, right, out=out)
    synchronise(left.device)
    return time.perf_counter() - started_s


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
