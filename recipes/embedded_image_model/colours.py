"""Colours: their names in a caption, and the linear maps that shift them."""

from __future__ import annotations

import math

import torch

PLAIN: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.16, 0.15),
    "orange": (0.96, 0.56, 0.13),
    "yellow": (0.97, 0.86, 0.25),
    "green": (0.22, 0.66, 0.27),
    "blue": (0.16, 0.40, 0.86),
    "purple": (0.53, 0.26, 0.72),
    "pink": (0.97, 0.60, 0.75),
    "brown": (0.50, 0.32, 0.20),
    "white": (0.96, 0.96, 0.96),
    "black": (0.08, 0.08, 0.09),
    "gray": (0.55, 0.56, 0.57),
    "teal": (0.12, 0.62, 0.62),
}
NAMES: tuple[str, ...] = tuple(PLAIN)
ALIASES = {"grey": "gray", "golden": "yellow", "gold": "yellow", "violet": "purple"}

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_RGB = torch.linalg.inv(_TO_YIQ)


def hue_matrices(
    angle_B: torch.Tensor, saturation_B: torch.Tensor, value_B: torch.Tensor
) -> torch.Tensor:
    """Linear colour maps (B, 3, 3): hue turned by `angle` radians, then saturation and value."""
    cos, sin = saturation_B * torch.cos(angle_B), saturation_B * torch.sin(angle_B)
    turn = torch.zeros(len(angle_B), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cos, -sin
    turn[:, 2, 1], turn[:, 2, 2] = sin, cos
    return value_B[:, None, None] * (_TO_RGB @ turn @ _TO_YIQ)


def hue_saturation_value(rgb_X3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hue in degrees, saturation and value of colours of any leading shape."""
    red, green, blue = rgb_X3.clamp(0, 1).unbind(-1)
    value, lowest = rgb_X3.clamp(0, 1).amax(-1), rgb_X3.clamp(0, 1).amin(-1)
    hue = torch.rad2deg(torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    return hue, (value - lowest) / value.clamp(min=1e-4), value


def name_indices(rgb_X3: torch.Tensor) -> torch.Tensor:
    """Index into `NAMES` of each colour, by hue, saturation and value; leading shape kept."""
    hue, saturation, value = hue_saturation_value(rgb_X3)
    edges = [
        (15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (190, "teal"),
        (255, "blue"), (300, "purple"), (345, "pink"), (361, "red"),
    ]  # fmt: skip
    named = torch.full(hue.shape, NAMES.index("red"))
    for upper, name in reversed(edges):
        named[hue < upper] = NAMES.index(name)
    warm = (hue < 45) | (hue > 345)
    named[warm & (saturation < 0.5) & (value > 0.8) & ((hue > 330) | (hue < 20))] = NAMES.index(
        "pink"
    )
    named[(hue < 50) & (value < 0.66) & (saturation > 0.2)] = NAMES.index("brown")
    named[saturation < 0.16] = NAMES.index("gray")
    named[(saturation < 0.16) & (value > 0.85)] = NAMES.index("white")
    named[value < 0.22] = NAMES.index("black")
    return named


def dominant(
    palette_BK3: torch.Tensor, weight_BK: torch.Tensor, matrix_B33: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Name index (B,) of the colour that covers most of each shifted icon, and its share (B,)."""
    shifted_BK3 = torch.einsum("bij,bkj->bki", matrix_B33, palette_BK3).clamp(0, 1)
    votes_BC = torch.zeros(len(weight_BK), len(NAMES))
    votes_BC.scatter_add_(1, name_indices(shifted_BK3), weight_BK)
    share_B, name_B = votes_BC.max(dim=1)
    return name_B, share_B
