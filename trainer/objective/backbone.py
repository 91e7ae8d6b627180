"""The vision transformer: any of timm's with a class token, plus a mask token.

Shapes: N images of H x W pixels, T = (H / patch) * (W / patch) tokens, E embedding dimensions.
"""

from typing import Any

import timm
import torch
from timm.models import VisionTransformer, checkpoint_seq
from torch import nn

from online_synclr.config.schema import TrainerConfig
from trainer.objective.patches import embed_patches

MASK_TOKEN_STD = 0.02
"""As the other tokens of the published code."""


class Backbone(nn.Module):
    """A timm ViT that takes images of several sizes; positions are interpolated for the others."""

    def __init__(
        self, vit: VisionTransformer, *, mask_token: bool, recompute_blocks: bool = False
    ) -> None:
        super().__init__()
        self.vit = vit
        self.recompute_blocks = recompute_blocks
        self.mask_token: nn.Parameter | None = None
        if mask_token:
            self.mask_token = nn.Parameter(torch.empty(vit.embed_dim))
            nn.init.normal_(self.mask_token, std=MASK_TOKEN_STD)

    @property
    def embed_dim(self) -> int:
        """E."""
        return int(self.vit.embed_dim)

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return int(self.vit.patch_embed.patch_size[0])

    def forward_tokens(
        self, images_N3HW: torch.Tensor, mask_NT: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of the last block after its norm.

        Args:
            images_N3HW: float, normalised; sides divisible by the patch.
            mask_NT: bool; masked tokens are replaced by the mask token before the positions are
                added. None: no mask.

        Returns:
            Class tokens (N, E) and patch tokens (N, T, E).

        Raises:
            ValueError: a mask was given to a backbone made without a mask token.
        """
        tokens_NHWE = embed_patches(self.vit.patch_embed, images_N3HW)
        if mask_NT is not None:
            if self.mask_token is None:
                raise ValueError("this backbone has no mask token")
            mask_NHW1 = mask_NT.view(tokens_NHWE.shape[:3]).unsqueeze(-1)
            tokens_NHWE = torch.where(mask_NHW1, self.mask_token.to(tokens_NHWE.dtype), tokens_NHWE)
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(tokens_NHWE)))
        # One of the two norms is an identity: some models call their last norm fc_norm.
        tokens = self.vit.fc_norm(self.vit.norm(self._blocks(tokens)))
        return tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :]

    def _blocks(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.recompute_blocks and torch.is_grad_enabled():
            # It keeps the random state of drop path, so that both passes drop the same paths.
            return checkpoint_seq(self.vit.blocks, tokens)
        return self.vit.blocks(tokens)

    def forward(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Class tokens (N, E): what evaluation reads, never compiled.

        Its batches have sizes of their own, and each would need a graph.
        """
        with torch.compiler.set_stance("force_eager"):
            return self.forward_tokens(images_N3HW)[0]


def build_backbone(trainer: TrainerConfig, *, drop_path: float, mask_token: bool) -> Backbone:
    """Create the ViT of the settings.

    Args:
        trainer: `backbone`, `backbone_args`, `pretrained`, `recompute_blocks` and `crops` are read.
        drop_path: stochastic depth; 0 for the teacher.
        mask_token: whether it will be given masks.

    Returns:
        A backbone on the CPU in float32.

    Raises:
        ValueError: timm has no such model, or it is no ViT with a class token, or a crop's side is
            not divisible by the patch.
    """
    vit = _create(trainer, drop_path)
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        raise ValueError(
            f"trainer.backbone: {trainer.backbone} is not a ViT with a class token; "
            "take one of timm's vit_* models"
        )
    backbone = Backbone(vit, mask_token=mask_token, recompute_blocks=trainer.recompute_blocks)
    _check_sides(trainer, backbone.patch_px)
    return backbone


def timm_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """What makes `timm.create_model(trainer.backbone, ...)` the settings' ViT, but for drop path."""
    return {
        **trainer.backbone_args,
        "img_size": trainer.crops.global_px,
        "dynamic_img_size": True,
        "num_classes": 0,
        "global_pool": "token",
    }


def _create(trainer: TrainerConfig, drop_path: float) -> nn.Module:
    if not timm.is_model(trainer.backbone):
        raise ValueError(
            f"trainer.backbone: timm {timm.__version__} has no model {trainer.backbone}; "
            "timm.list_models('vit_*') lists those that fit"
        )
    arguments = {**timm_arguments(trainer), "drop_path_rate": drop_path}
    try:
        model: nn.Module = timm.create_model(
            trainer.backbone, pretrained=trainer.pretrained, **arguments
        )
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"trainer.backbone: {trainer.backbone} cannot be made with {arguments} ({error}); "
            "take one of timm's vit_* models or change trainer.backbone_args"
        ) from error
    return model


def _check_sides(trainer: TrainerConfig, patch_px: int) -> None:
    sides = {"global_px": trainer.crops.global_px}
    if trainer.crops.locals_per_image:
        sides["local_px"] = trainer.crops.local_px
    for key, side in sides.items():
        if side % patch_px:
            raise ValueError(
                f"trainer.crops.{key} is {side}, not a multiple of the backbone's patch; "
                f"set it to a multiple of {patch_px}"
            )
