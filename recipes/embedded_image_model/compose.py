"""Scenes: icons in free pose, size, place and colour over backgrounds, composed in batches.

A `Wish` says what a caption demands; everything it leaves open is drawn at random. The scene
composed for a wish and the words that can be truly said of it come back together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from recipes.embedded_image_model import colours
from recipes.embedded_image_model.atlas import Atlas
from recipes.embedded_image_model.backgrounds import NUM_SCENES, SCENE_SHARE
from recipes.embedded_image_model.concepts import CONCEPTS

SIDE_PX = 64
MAX_TURN_RAD = math.radians(10)
MIRROR_SHARE = 0.2
PAINT_SHARE = 0.25
HUE_SHIFT_RAD = math.radians(9)
SIZE_RANGES = {"small": (0.5, 0.62), "large": (0.92, 1.04), None: (0.72, 1.0)}
# Where the second object of a pair stands, seen from the first: (dx, dy) in half-frames.
PLACES = {"side": (1.0, 0.0), "above": (0.0, -1.0), "below": (0.0, 1.0), "overlap": (0.6, -0.35)}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caption asks of its image; None leaves it open.

    place: where the second object stands, a key of `PLACES`; front: is it drawn over the first?
    colour: index into `colours.NAMES`, granted only to paintable concepts and as far as possible.
    """

    concept: int
    background: int | None = None
    size: str | None = None
    colour: int | None = None
    second: int | None = None
    place: str | None = None
    front: bool = True


@dataclass(frozen=True)
class Scenes:
    """B composed scenes.

    images_B3SS: float32 in [0, 1].
    background_B: the background kind used; colour_B: the main colour of the (first) object, or -1
    where no colour covers enough of it.
    cover_B1SS: how far the first object covers each pixel, in [0, 1].
    """

    images_B3SS: torch.Tensor
    background_B: torch.Tensor
    colour_B: torch.Tensor
    cover_B1SS: torch.Tensor


class Composer:
    """Draws scenes from an atlas and a background bank; all randomness from one generator."""

    def __init__(
        self,
        atlas: Atlas,
        bank_KE3SS: torch.Tensor,
        *,
        seed: int,
        sources: tuple[int, ...] | None = None,
    ) -> None:
        self._atlas = atlas
        self._bank = bank_KE3SS
        self._rng = torch.Generator().manual_seed(seed)
        self._of_concept = [atlas.of_concept(index, sources) for index in range(len(CONCEPTS))]
        self._paintable = torch.tensor([concept.paintable for concept in CONCEPTS])

    def compose(self, wishes: list[Wish]) -> Scenes:
        """Compose one scene for every wish."""
        canvas_B3SS, kind_B = self._backgrounds(wishes)
        concept_B = torch.tensor([wish.concept for wish in wishes])
        colour_B = torch.tensor([-1 if w.colour is None else w.colour for w in wishes])
        icon_B = self._icons(concept_B)
        matrix_B33, named_B = self._colours(icon_B, colour_B)
        sides_B = torch.where(self._uniform(len(wishes), 0, 1) < 0.5, -1.0, 1.0)
        first_B4SS = self._place(icon_B, matrix_B33, *self._poses(wishes, sides_B, second=False))
        _cover(canvas_B3SS, list(range(len(wishes))), first_B4SS)
        paired = [index for index, wish in enumerate(wishes) if wish.second is not None]
        if paired:
            _cover(canvas_B3SS, paired, self._seconds([wishes[i] for i in paired], sides_B[paired]))
        hidden = [index for index in paired if not wishes[index].front]
        if hidden:
            _cover(canvas_B3SS, hidden, first_B4SS[hidden])
        return Scenes(canvas_B3SS.clamp(0, 1), kind_B, named_B, first_B4SS[:, 3:])

    def _uniform(self, count: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=self._rng)

    def _integers(self, count: int, high: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=self._rng)

    def _backgrounds(self, wishes: list[Wish]) -> tuple[torch.Tensor, torch.Tensor]:
        """Background images (B, 3, S, S), mirrored at random, and their kinds (B,)."""
        count = len(wishes)
        kinds, each = self._bank.shape[:2]
        plain = self._uniform(count, 0, 1) > SCENE_SHARE
        scene, colour = self._integers(count, NUM_SCENES), self._integers(count, kinds - NUM_SCENES)
        free_B = torch.where(plain, NUM_SCENES + colour, scene)
        asked = torch.tensor([-1 if w.background is None else w.background for w in wishes])
        kind_B = torch.where(asked >= 0, asked, free_B)
        images = self._bank[kind_B, self._integers(count, each)].float().div(255)
        mirrored = self._uniform(count, 0, 1) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        return images, kind_B

    def _icons(self, concept_B: torch.Tensor) -> torch.Tensor:
        """One of each concept's icons."""
        draws = torch.rand(len(concept_B), generator=self._rng).tolist()
        choices = (self._of_concept[concept] for concept in concept_B.tolist())
        return torch.stack(
            [icons[int(u * len(icons))] for icons, u in zip(choices, draws, strict=True)]
        )

    def _colours(
        self, icon_B: torch.Tensor, asked_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Colour maps (B, 3, 3) and the name of the main colour they lead to (B,), -1 if none.

        A paintable concept takes any hue in `PAINT_SHARE` of the scenes; where a colour is asked
        for, the first of several random hues that yields it is taken.
        """
        count, tries = len(icon_B), 16
        small = self._uniform(count * tries, -HUE_SHIFT_RAD, HUE_SHIFT_RAD)
        wide = self._uniform(count * tries, -math.pi, math.pi)
        paint = self._paintable[self._atlas.concept_N[icon_B]]
        free = paint & ((self._uniform(count, 0, 1) < PAINT_SHARE) | (asked_B >= 0))
        angle = torch.where(free.repeat_interleave(tries), wide, small)
        matrices = colours.hue_matrices(
            angle, self._uniform(count * tries, 0.8, 1.2), self._uniform(count * tries, 0.85, 1.1)
        )
        icons = icon_B.repeat_interleave(tries)
        named, share = colours.dominant(
            self._atlas.palette_NK3[icons], self._atlas.weight_NK[icons], matrices
        )
        named = torch.where(share > 0.45, named, -1).view(count, tries)
        hit = (named == asked_B[:, None]) & (asked_B >= 0)[:, None]
        chosen = hit.float().argmax(dim=1)
        rows = torch.arange(count)
        return matrices.view(count, tries, 3, 3)[rows, chosen], named[rows, chosen]

    def _poses(
        self, wishes: list[Wish], sides_B: torch.Tensor, *, second: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scale (B,) as a share of the frame, and centre offsets x, y (B,) in half-frames.

        sides_B: -1 or 1, on which side the second object of a pair stands.
        """
        count = len(wishes)
        ranges = [SIZE_RANGES[wish.size] for wish in wishes]
        low, high = (torch.tensor(column) for column in zip(*ranges, strict=True))
        scale = low + (high - low) * torch.rand(count, generator=self._rng)
        room = (1.0 - scale).clamp(min=0.04)
        x, y = self._uniform(count, -1, 1) * room, self._uniform(count, -1, 1) * room
        reach, sizes = (0.5, (0.36, 0.46)) if second else (-0.34, (0.54, 0.64))
        for row in (row for row, wish in enumerate(wishes) if wish.place is not None):
            dx, dy = PLACES[str(wishes[row].place)]
            jitter = self._uniform(2, -0.06, 0.06)
            scale[row] = self._uniform(1, *sizes)
            x[row] = sides_B[row] * dx * reach + jitter[0]
            y[row] = dy * reach + jitter[1]
        return scale, x, y

    def _seconds(self, wishes: list[Wish], sides_R: torch.Tensor) -> torch.Tensor:
        """The layer (R, 4, S, S) of the second objects of paired wishes."""
        icon_R = self._icons(torch.tensor([wish.second for wish in wishes]))
        matrix_R33, _ = self._colours(icon_R, torch.full((len(wishes),), -1))
        return self._place(icon_R, matrix_R33, *self._poses(wishes, sides_R, second=True))

    def _place(
        self,
        icon_R: torch.Tensor,
        matrix_R33: torch.Tensor,
        scale_R: torch.Tensor,
        x_R: torch.Tensor,
        y_R: torch.Tensor,
    ) -> torch.Tensor:
        """Icons recoloured, mirrored, turned, scaled and moved: (R, 4, S, S), premultiplied."""
        count = len(icon_R)
        icons_R4SS = self._atlas.icons_N4SS[icon_R]
        rgb = torch.einsum("rij,rjhw->rihw", matrix_R33, icons_R4SS[:, :3])
        rgb = torch.minimum(rgb.clamp(min=0), icons_R4SS[:, 3:])
        angle = self._uniform(count, -MAX_TURN_RAD, MAX_TURN_RAD)
        mirror = torch.where(self._uniform(count, 0, 1) < MIRROR_SHARE, -1.0, 1.0)
        stretch = self._uniform(count, 0.9, 1.1)
        cos, sin = torch.cos(angle) / scale_R, torch.sin(angle) / scale_R
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 0, 1] = mirror * stretch * cos, mirror * stretch * sin
        theta[:, 1, 0], theta[:, 1, 1] = -sin / stretch, cos / stretch
        centre = torch.stack([x_R, y_R], dim=1)[..., None]
        theta[:, :, 2:] = -theta[:, :, :2] @ centre
        grid = F.affine_grid(theta, [count, 4, SIDE_PX, SIDE_PX], align_corners=False)
        return F.grid_sample(torch.cat([rgb, icons_R4SS[:, 3:]], dim=1), grid, align_corners=False)


def _cover(canvas_B3SS: torch.Tensor, rows: list[int], layer_R4SS: torch.Tensor) -> None:
    """Lay premultiplied images over some rows of the canvas, in place."""
    canvas_B3SS[rows] = canvas_B3SS[rows] * (1 - layer_R4SS[:, 3:]) + layer_R4SS[:, :3]
