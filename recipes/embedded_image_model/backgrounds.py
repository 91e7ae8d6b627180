"""Backgrounds: what captions call them, and how each is drawn, a little differently every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from recipes.embedded_image_model import colours

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Background:
    """A kind of background.

    phrase: its name in the demo's list and in the LLM's prompts.
    wordings: how templates put it behind an object.
    words: what gives it away in a free caption.
    """

    phrase: str
    wordings: tuple[str, ...]
    words: tuple[str, ...]
    draw: Draw


def _rgb(rng: np.random.Generator, colour: tuple[float, ...], jitter: float = 0.05) -> np.ndarray:
    """A colour (3,) near `colour`."""
    return np.clip(np.asarray(colour) + rng.normal(0, jitter, 3), 0, 1)


def _ramp(size: int, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A vertical gradient (S, S, 3)."""
    t = np.linspace(0, 1, size)[:, None, None]
    return np.broadcast_to((1 - t) * top + t * bottom, (size, size, 3)).copy()


def _noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth noise (S, S) with standard deviation one."""
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), sigma)
    return field / (field.std() + 1e-6)


def _horizon(rng: np.random.Generator, size: int, low: float, high: float, wave: float = 0.0):
    """Mask (S, S) of what lies under a horizon at a height share in [low, high], and its row."""
    row = size * rng.uniform(low, high)
    x = np.arange(size)
    line = row + wave * size * np.sin(x / size * rng.uniform(3, 7) + rng.uniform(0, 6))
    return np.clip(np.arange(size)[:, None] - line[None], 0, 1)[..., None], row


def _clouds(rng: np.random.Generator, image: np.ndarray, count: int) -> None:
    """Paint soft white clouds into the upper half, in place."""
    size = len(image)
    yy, xx = np.mgrid[:size, :size]
    for _ in range(count):
        cx, cy = rng.uniform(0, size), rng.uniform(0.05, 0.45) * size
        for _ in range(3):
            ox, oy = rng.normal(0, 4), rng.normal(0, 1.2)
            rx, ry = rng.uniform(4, 8), rng.uniform(2, 4)
            inside = 1 - (((xx - cx - ox) / rx) ** 2 + ((yy - cy - oy) / ry) ** 2)
            cover = np.clip(inside * 3, 0, 0.9)[..., None]
            image[:] = image * (1 - cover) + cover * 0.98


def plain(name: str) -> Draw:
    """A flat colour, at times with a soft gradient."""

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        base = _rgb(rng, colours.PLAIN[name], 0.03)
        return _ramp(size, base * rng.uniform(0.94, 1.06), base * rng.uniform(0.94, 1.06))

    return draw


def sky(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blue, paler towards the bottom, a few clouds."""
    top, bottom = _rgb(rng, (0.25, 0.55, 0.92)), _rgb(rng, (0.70, 0.87, 0.98))
    image = _ramp(size, top, bottom)
    _clouds(rng, image, int(rng.integers(1, 5)))
    return image


def grass(rng: np.random.Generator, size: int) -> np.ndarray:
    """A meadow under a pale sky."""
    image = _ramp(size, _rgb(rng, (0.55, 0.80, 0.96)), _rgb(rng, (0.85, 0.94, 0.98)))
    mask, _ = _horizon(rng, size, 0.25, 0.6, 0.03)
    ground = _ramp(size, _rgb(rng, (0.50, 0.76, 0.28)), _rgb(rng, (0.22, 0.55, 0.16)))
    ground += 0.03 * _noise(rng, size, 2.0)[..., None]
    return image * (1 - mask) + ground * mask


def beach(rng: np.random.Generator, size: int) -> np.ndarray:
    """Sky, a strip of sea, sand."""
    image = _ramp(size, _rgb(rng, (0.45, 0.75, 0.96)), _rgb(rng, (0.80, 0.93, 0.98)))
    sea, row = _horizon(rng, size, 0.25, 0.4)
    image = image * (1 - sea) + _rgb(rng, (0.10, 0.55, 0.72)) * sea
    sand, _ = _horizon(rng, size, row / size + 0.12, row / size + 0.3, 0.02)
    ground = _rgb(rng, (0.93, 0.82, 0.56)) + 0.015 * _noise(rng, size, 2.0)[..., None]
    return image * (1 - sand) + ground * sand


def snow(rng: np.random.Generator, size: int) -> np.ndarray:
    """A white field under a grey-blue sky, with flakes."""
    image = _ramp(size, _rgb(rng, (0.60, 0.71, 0.84)), _rgb(rng, (0.80, 0.87, 0.94)))
    mask, _ = _horizon(rng, size, 0.35, 0.65, 0.04)
    image = image * (1 - mask) + _ramp(size, _rgb(rng, (0.97,) * 3, 0.01), np.full(3, 0.88)) * mask
    yy, xx = np.mgrid[:size, :size]
    for _ in range(int(rng.integers(5, 12))):
        distance = np.hypot(xx - rng.uniform(0, size), yy - rng.uniform(0, size))
        flake = np.clip(rng.uniform(1.6, 2.4) - distance, 0, 1)[..., None]
        image = image * (1 - flake) + flake
    return image


def night(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dark blue with stars, at times a moon."""
    image = _ramp(size, _rgb(rng, (0.03, 0.04, 0.16), 0.02), _rgb(rng, (0.12, 0.13, 0.36), 0.03))
    yy, xx = np.mgrid[:size, :size]
    for _ in range(int(rng.integers(6, 14))):
        distance = np.hypot(xx - rng.uniform(0, size), yy - rng.uniform(0, size))
        image += (np.clip(rng.uniform(1.3, 2.1) - distance, 0, 1) * 0.9)[..., None]
    if rng.random() < 0.4:
        distance = np.hypot(xx - rng.uniform(6, size - 6), yy - rng.uniform(5, 18))
        image += np.clip(rng.uniform(4, 7) - distance, 0, 1)[..., None] * (0.85, 0.82, 0.6)
    return image


def forest(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dark green with trunks and a forest floor."""
    image = _ramp(size, _rgb(rng, (0.10, 0.30, 0.14)), _rgb(rng, (0.20, 0.42, 0.18)))
    image += 0.04 * _noise(rng, size, 4.0)[..., None]
    x = np.arange(size)[None]
    for _ in range(int(rng.integers(3, 7))):
        width = rng.uniform(2.5, 4.5)
        trunk = np.clip(width - np.abs(x - rng.uniform(0, size)), 0, 1)[..., None]
        image = image * (1 - trunk) + _rgb(rng, (0.30, 0.19, 0.10), 0.03) * trunk
    mask, _ = _horizon(rng, size, 0.72, 0.88, 0.02)
    return image * (1 - mask) + _rgb(rng, (0.24, 0.34, 0.13), 0.03) * mask


def desert(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dunes under a hot sky."""
    image = _ramp(size, _rgb(rng, (0.55, 0.78, 0.92)), _rgb(rng, (0.99, 0.90, 0.70)))
    far, row = _horizon(rng, size, 0.3, 0.5, 0.06)
    image = image * (1 - far) + _rgb(rng, (0.90, 0.68, 0.36), 0.03) * far
    near, _ = _horizon(rng, size, row / size + 0.15, row / size + 0.35, 0.07)
    return image * (1 - near) + _rgb(rng, (0.80, 0.54, 0.24), 0.03) * near


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    """Deep blue with lighter ripples."""
    image = _ramp(size, _rgb(rng, (0.16, 0.56, 0.80)), _rgb(rng, (0.03, 0.27, 0.55)))
    yy, xx = np.mgrid[:size, :size]
    phase = yy * rng.uniform(0.35, 0.55) + 1.2 * np.sin(
        xx * rng.uniform(0.15, 0.3) + rng.uniform(0, 6)
    )
    return image + 0.12 * np.clip(np.sin(phase), 0.4, 1)[..., None] - 0.05


def sunset(rng: np.random.Generator, size: int) -> np.ndarray:
    """Purple to orange, a low sun, dark ground."""
    top, middle = _rgb(rng, (0.40, 0.20, 0.50)), _rgb(rng, (0.99, 0.60, 0.22))
    image = _ramp(size, top, middle)
    yy, xx = np.mgrid[:size, :size]
    mask, row = _horizon(rng, size, 0.68, 0.85, 0.02)
    distance = np.hypot(xx - rng.uniform(0.1, 0.9) * size, yy - row + rng.uniform(-4, 6))
    sun = np.clip(rng.uniform(7, 12) - distance, 0, 1)[..., None]
    image = image * (1 - sun) + np.asarray((1.0, 0.88, 0.45)) * sun
    return image * (1 - mask) + _rgb(rng, (0.18, 0.09, 0.16), 0.02) * mask


def city(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grey houses with lit windows behind a road."""
    image = _ramp(size, _rgb(rng, (0.62, 0.76, 0.88)), _rgb(rng, (0.86, 0.90, 0.93)))
    x, ground = 0, int(size * rng.uniform(0.68, 0.8))
    while x < size:
        width, top = int(rng.integers(12, 22)), int(size * rng.uniform(0.05, 0.4))
        wall = np.full(3, rng.uniform(0.35, 0.65)) + rng.normal(0, 0.04, 3)
        image[top:ground, x : x + width] = wall
        for y in range(top + 3, ground - 4, 9):
            for window in range(x + 3, min(x + width - 4, size), 7):
                image[y : y + 4, window : window + 3] = (0.98, 0.90, 0.60)
        x += width
    image[ground:] = _rgb(rng, (0.28, 0.28, 0.30), 0.02)
    middle = (ground + size) // 2
    image[middle : middle + 2, (np.arange(size) // 9) % 2 == 0] = 0.92
    return image


def table(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wooden boards seen from above."""
    image = np.broadcast_to(_rgb(rng, (0.70, 0.47, 0.27), 0.04), (size, size, 3)).copy()
    board = int(rng.integers(12, 20))
    offset = int(rng.integers(0, board))
    rows = (np.arange(size) + offset) // board
    image *= (1 + 0.09 * rng.normal(size=rows.max() + 1))[rows][:, None, None]
    grain = ndimage.gaussian_filter(rng.normal(size=(size, size)), (1.5, 8))
    image *= 1 + 0.025 * (grain / grain.std())[..., None]
    image[(np.arange(size) + offset) % board == 0] *= 0.6
    return image


def tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """A checkered floor of white and a colour."""
    step = int(rng.integers(13, 22))
    yy, xx = np.mgrid[:size, :size] + rng.integers(0, step, size=(2, 1, 1))
    dark = ((yy // step + xx // step) % 2)[..., None]
    ink = ((0.12, 0.12, 0.14), (0.45, 0.70, 0.85), (0.82, 0.35, 0.32), (0.40, 0.68, 0.52))
    return dark * _rgb(rng, ink[rng.integers(len(ink))]) + (1 - dark) * 0.94


def bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    """A brick wall."""
    height, width = int(rng.integers(10, 14)), int(rng.integers(20, 28))
    yy, xx = np.mgrid[:size, :size]
    row = yy // height
    column = (xx + (row % 2) * width // 2 + int(rng.integers(width))) // width
    shade = 1 + 0.07 * rng.normal(size=(row.max() + 1, column.max() + 1))
    image = _rgb(rng, (0.70, 0.33, 0.24), 0.04) * shade[row, column][..., None]
    image[(yy % height == 0) | (np.roll(column, 1, axis=1) != column)] = _rgb(
        rng, (0.78, 0.62, 0.55), 0.03
    )
    return image


def dots(rng: np.random.Generator, size: int) -> np.ndarray:
    """Polka dots in two colours."""
    light = _rgb(rng, tuple(rng.uniform(0.75, 1, 3)))
    dark = _rgb(rng, list(colours.PLAIN.values())[rng.integers(7)])
    step, radius = rng.uniform(18, 24), rng.uniform(4.5, 6)
    yy, xx = np.mgrid[:size, :size] + rng.uniform(0, step, size=(2, 1, 1))
    shifted = xx + step / 2 * ((yy // step) % 2)
    distance = np.hypot(shifted % step - step / 2, yy % step - step / 2)
    inside = np.clip(radius - distance, 0, 1)[..., None]
    return light * (1 - inside) + dark * inside


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Slanted stripes in two colours."""
    light = _rgb(rng, (0.96, 0.95, 0.90), 0.03)
    dark = _rgb(rng, list(colours.PLAIN.values())[rng.integers(8)])
    angle, period = rng.choice([0.0, np.pi / 2, np.pi / 4]), rng.uniform(16, 26)
    yy, xx = np.mgrid[:size, :size]
    wave = np.sin(
        (xx * np.cos(angle) + yy * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6)
    )
    inside = np.clip(wave * 3 + 0.5, 0, 1)[..., None]
    return light * (1 - inside) + dark * inside


def beach_sunset(rng: np.random.Generator, size: int) -> np.ndarray:
    """A low sun over the sea, with its path on the water, and warm sand."""
    image = _ramp(size, _rgb(rng, (0.55, 0.30, 0.55)), _rgb(rng, (1.0, 0.66, 0.32)))
    sea, row = _horizon(rng, size, 0.38, 0.52)
    yy, xx = np.mgrid[:size, :size]
    centre = rng.uniform(0.15, 0.85) * size
    sun = np.clip(rng.uniform(6, 10) - np.hypot(xx - centre, yy - row), 0, 1)[..., None]
    image = image * (1 - sun) + np.asarray((1.0, 0.90, 0.50)) * sun
    image = image * (1 - sea) + _rgb(rng, (0.42, 0.30, 0.50)) * sea
    path = np.clip(4 + 0.15 * (yy - row) - np.abs(xx - centre), 0, 1)[..., None] * sea
    image = image * (1 - 0.7 * path) + np.asarray((1.0, 0.78, 0.42)) * 0.7 * path
    sand, _ = _horizon(rng, size, row / size + 0.14, row / size + 0.3, 0.02)
    ground = _rgb(rng, (0.80, 0.56, 0.36)) + 0.015 * _noise(rng, size, 2.0)[..., None]
    return image * (1 - sand) + ground * sand


def mountains(rng: np.random.Generator, size: int) -> np.ndarray:
    """White-topped peaks under a clear sky, green foothills."""
    image = _ramp(size, _rgb(rng, (0.35, 0.60, 0.90)), _rgb(rng, (0.82, 0.90, 0.96)))
    yy, xx = np.mgrid[:size, :size]
    for _ in range(int(rng.integers(2, 5))):
        top, centre = rng.uniform(0.05, 0.35) * size, rng.uniform(0, 1) * size
        slope = rng.uniform(0.8, 1.4)
        below = yy - top - slope * np.abs(xx - centre)
        rock = np.clip(below, 0, 1)[..., None]
        cap = np.clip(rng.uniform(9, 15) - (yy - top) + 2 * np.sin(xx * 0.8), 0, 1)[..., None]
        colour = _rgb(rng, (0.42, 0.44, 0.52), 0.04) * (1 - cap) + 0.97 * cap
        image = image * (1 - rock) + colour * rock
    hills, _ = _horizon(rng, size, 0.7, 0.85, 0.04)
    return image * (1 - hills) + _rgb(rng, (0.30, 0.52, 0.28), 0.04) * hills


def flowers(rng: np.random.Generator, size: int) -> np.ndarray:
    """A green field full of flowers of two colours."""
    image = _ramp(size, _rgb(rng, (0.45, 0.70, 0.32)), _rgb(rng, (0.20, 0.48, 0.18)))
    inks = [(0.95, 0.35, 0.55), (0.98, 0.85, 0.25), (0.97, 0.97, 0.97), (0.60, 0.40, 0.85)]
    pair = rng.choice(len(inks), 2, replace=False)
    yy, xx = np.mgrid[:size, :size]
    for _ in range(int(rng.integers(22, 34))):
        distance = np.hypot(xx - rng.uniform(0, size), yy - rng.uniform(0, size))
        radius = rng.uniform(2.6, 4.2)
        petal = np.clip(radius - distance, 0, 1)[..., None]
        image = image * (1 - petal) + _rgb(rng, inks[pair[rng.integers(2)]], 0.03) * petal
        heart = np.clip(0.4 * radius - distance, 0, 1)[..., None]
        image = image * (1 - heart) + np.asarray((0.95, 0.75, 0.2)) * heart
    return image


def room(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall with a window, a skirting board and a wooden floor."""
    image = np.broadcast_to(_rgb(rng, (0.88, 0.82, 0.70), 0.05), (size, size, 3)).copy()
    left, top = int(rng.integers(3, size - 24)), int(rng.integers(4, 12))
    image[top : top + 20, left : left + 20] = 0.97
    image[top + 2 : top + 18, left + 2 : left + 18] = _rgb(rng, (0.60, 0.82, 0.95), 0.03)
    image[top + 9 : top + 11, left : left + 20] = 0.97
    image[top : top + 20, left + 9 : left + 11] = 0.97
    floor = int(size * rng.uniform(0.66, 0.8))
    image[floor - 2 : floor] = 0.97
    image[floor:] = _rgb(rng, (0.60, 0.40, 0.24), 0.04)
    image[floor:, (np.arange(size) + int(rng.integers(9))) % 10 == 0] *= 0.8
    return image


def blend(rng: np.random.Generator, size: int) -> np.ndarray:
    """A gradient between two bright colours, in any direction."""
    names = list(colours.PLAIN)[:7]
    first, second = rng.choice(len(names), 2, replace=False)
    angle = rng.uniform(0, 2 * np.pi)
    yy, xx = np.mgrid[:size, :size] / (size - 1) - 0.5
    t = np.clip(0.5 + 0.75 * (xx * np.cos(angle) + yy * np.sin(angle)), 0, 1)[..., None]
    one, other = (_rgb(rng, colours.PLAIN[names[i]]) for i in (first, second))
    return (1 - t) * one + t * other


def _scenes() -> tuple[Background, ...]:
    """The kinds that are no plain colour; a row: phrase, wordings, words, drawing."""
    rows: tuple[tuple[str, str, str, Draw], ...] = (
        (
            "blue sky",
            "in a blue sky|in the sky|under a cloudy sky|against the sky",
            "sky|clouds|cloudy",
            sky,
        ),
        (
            "green meadow",
            "in the grass|in a green meadow|on the grass|in a field|in a garden",
            "grass|meadow|lawn|garden|field|park|hill|hills|pasture",
            grass,
        ),
        (
            "sandy beach",
            "on a sandy beach|on the beach|at the beach|on the sand",
            "beach|shore|sand|sandy|coast",
            beach,
        ),
        (
            "snowy field",
            "in the snow|in a snowy field|on the snow|in winter",
            "snow|snowy|winter|icy|frozen",
            snow,
        ),
        (
            "night sky",
            "in the night sky|at night|under the stars|under a starry sky",
            "night|stars|starry|moonlight|midnight",
            night,
        ),
        (
            "dark forest",
            "in the forest|in a dark forest|in the woods|in the deep woods",
            "forest|woods|jungle|woodland",
            forest,
        ),
        (
            "dry desert",
            "in the desert|in a dry desert|on a sand dune",
            "desert|dune|dunes|sahara",
            desert,
        ),
        (
            "blue sea",
            "in the sea|in the water|on the ocean|in the blue sea",
            "sea|water|ocean|lake|river|pond|waves|underwater|pool",
            water,
        ),
        (
            "orange sunset",
            "at sunset|in the sunset|in front of an orange sunset|at dusk",
            "sunset|dusk|sunrise|dawn|evening",
            sunset,
        ),
        (
            "city street",
            "on a city street|in the city|on the street|in a busy town",
            "city|street|town|road|buildings|sidewalk|downtown",
            city,
        ),
        (
            "wooden table",
            "on a wooden table|on the table|on a wooden floor",
            "table|desk|shelf|bench",
            table,
        ),
        (
            "tiled floor",
            "on a tiled floor|on a checkered floor|in the kitchen",
            "tiled|tiles|tile|checkered|checkerboard|kitchen|bathroom",
            tiles,
        ),
        (
            "brick wall",
            "in front of a brick wall|against a brick wall|by a brick wall",
            "brick|bricks|wall",
            bricks,
        ),
        (
            "polka dots",
            "on polka dots|with polka dots|on a dotted background",
            "polka|dots|dotted",
            dots,
        ),
        (
            "colorful stripes",
            "on colorful stripes|on a striped background|with stripes",
            "stripes",
            stripes,
        ),
        (
            "beach at sunset",
            "on a beach at sunset|on the beach at sunset|by the sea at sunset|"
            "on a sandy beach at sunset",
            "",
            beach_sunset,
        ),
        (
            "snowy mountains",
            "in the mountains|in front of snowy mountains|high in the mountains",
            "mountains|alps|peaks|valley|cliff",
            mountains,
        ),
        (
            "field of flowers",
            "in a field of flowers|among colorful flowers|in a flower field",
            "flowers|blossoms|wildflowers",
            flowers,
        ),
        (
            "living room",
            "in a living room|in the living room|in a cozy room|by the window",
            "room|bedroom|indoors|carpet",
            room,
        ),
        (
            "rainbow gradient",
            "on a rainbow gradient|on a colorful gradient|with a gradient background",
            "gradient",
            blend,
        ),
    )
    return tuple(
        Background(
            phrase=a, wordings=tuple(b.split("|")), words=tuple(filter(None, c.split("|"))), draw=d
        )
        for a, b, c, d in rows
    )


def _plains() -> tuple[Background, ...]:
    """One kind for each plain colour."""
    return tuple(
        Background(
            phrase=f"{name} background",
            wordings=(
                f"on a {name} background",
                f"on {name}",
                f"in front of a {name} background",
                f"with a {name} background",
                f"against a {name} wall",
                f"on a {name} backdrop",
            ),
            words=(),
            draw=plain(name),
        )
        for name in colours.NAMES
    )


BACKGROUNDS: tuple[Background, ...] = _scenes() + _plains()
NUM_SCENES = len(BACKGROUNDS) - len(colours.NAMES)
SCENE_SHARE = 0.6


def draw_bank(cache: Path, *, each: int, size_px: int, seed: int) -> torch.Tensor:
    """`each` drawings of every kind, (K, each, 3, S, S) uint8; cached in `cache`."""
    saved = cache / f"backgrounds_{each}_{seed}.pt"
    if saved.exists():
        return torch.load(saved)
    rng = np.random.default_rng(seed)
    bank = np.empty((len(BACKGROUNDS), each, size_px, size_px, 3), np.uint8)
    for kind, background in enumerate(BACKGROUNDS):
        for index in range(each):
            image = np.clip(background.draw(rng, size_px), 0, 1)
            bank[kind, index] = np.round(255 * image)
    tensor = torch.from_numpy(bank).permute(0, 1, 4, 2, 3).contiguous()
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(tensor, saved)
    return tensor
