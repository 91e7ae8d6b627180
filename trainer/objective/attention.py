"""Self-attention step by step, for CPUs in bf16 (`precision.unfuse_slow_attention`).

Shapes: N sequences, T tokens, H heads, D features a head, X = N * H.
"""

import torch
from timm.layers import Attention
from torch import nn


class StepwiseAttention(Attention):
    """timm's attention with the scale inside the first product instead of a pass over the queries.

    The scores are kept for the backward pass.
    """

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """Tokens (N, T, E) to tokens of the same shape.

        Raises:
            ValueError: a mask was given; the networks here attend to all tokens.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("attention step by step knows no masks")
        num, tokens, _ = x.shape
        heads_3NHTD = (
            self.qkv(x).view(num, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        )
        q_XTD, k_XTD, v_XTD = heads_3NHTD.flatten(1, 2).unbind()
        nothing = q_XTD.new_empty((1, 1, 1))  # not read: beta is zero
        scores_XTT = torch.baddbmm(nothing, q_XTD, k_XTD.mT, beta=0.0, alpha=self.scale)
        out_XTD = torch.bmm(scores_XTT.softmax(dim=-1), v_XTD)
        out_NTE = out_XTD.view(num, self.num_heads, tokens, self.head_dim).transpose(1, 2)
        projected: torch.Tensor = self.proj(out_NTE.reshape(num, tokens, self.attn_dim))
        return projected


def is_plain(module: nn.Module) -> bool:
    """Whether `StepwiseAttention` computes what this module does."""
    if type(module) is not Attention or getattr(module, "gate", None) is not None:
        return False
    parts = (module.q_norm, module.k_norm, module.norm)
    dropouts = (child for child in module.modules() if isinstance(child, nn.Dropout))
    return all(isinstance(part, nn.Identity) for part in parts) and not any(
        dropout.p for dropout in dropouts
    )
