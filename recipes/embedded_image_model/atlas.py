"""The atlas: every icon of every concept as one premultiplied RGBA tensor, with its colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
import torch
from PIL import Image

from recipes.embedded_image_model.concepts import CONCEPTS, Concept
from recipes.embedded_image_model.sources import SOURCES, IconPack, fetch

PALETTE_SIZE = 10


@dataclass(frozen=True)
class Atlas:
    """N icons at S pixels.

    icons_N4SS: float32 RGBA in [0, 1], colour premultiplied by alpha.
    concept_N, source_N: int64 indices into the concept and source lists.
    palette_NK3, weight_NK: each icon's colours in [0, 1] and the share of its area they cover.
    """

    icons_N4SS: torch.Tensor
    concept_N: torch.Tensor
    source_N: torch.Tensor
    palette_NK3: torch.Tensor
    weight_NK: torch.Tensor

    def of_concept(self, concept: int, sources: tuple[int, ...] | None = None) -> torch.Tensor:
        """Indices of the icons of one concept, of some sources or of all."""
        keep_N = self.concept_N == concept
        if sources is not None:
            keep_N &= torch.isin(self.source_N, torch.tensor(sources))
        return torch.nonzero(keep_N).flatten()


def rasterise(svg: str) -> np.ndarray:
    """Draw an SVG document; (S, S, 4) uint8, straight alpha, centred and filling the square."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def fill_square(image_HW4: np.ndarray, size_px: int) -> np.ndarray:
    """Crop to what is opaque and centre it so that its longer side fills `size_px`."""
    rows = np.flatnonzero(image_HW4[..., 3].max(axis=1) > 8)
    cols = np.flatnonzero(image_HW4[..., 3].max(axis=0) > 8)
    crop = Image.fromarray(image_HW4[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
    scale = size_px / max(crop.size)
    side = tuple(max(1, round(length * scale)) for length in crop.size)
    premultiplied = crop.convert("RGBa").resize(side, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size_px, size_px))
    canvas.paste(premultiplied, ((size_px - side[0]) // 2, (size_px - side[1]) // 2))
    return np.asarray(canvas)


def palette(image_HW4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `PALETTE_SIZE` main colours (K, 3) in [0, 1] and their area shares (K,)."""
    opaque = image_HW4[image_HW4[..., 3] > 128][:, :3]
    quantised = Image.fromarray(opaque[None]).quantize(PALETTE_SIZE)
    colours = np.zeros((PALETTE_SIZE, 3), np.float32)
    found = np.asarray(quantised.getpalette()[: 3 * PALETTE_SIZE], np.float32).reshape(-1, 3) / 255
    colours[: len(found)] = found
    counts = np.bincount(np.asarray(quantised).ravel(), minlength=PALETTE_SIZE)
    return colours, (counts[:PALETTE_SIZE] / counts.sum()).astype(np.float32)


def build(cache: Path, *, size_px: int, concepts: tuple[Concept, ...] = CONCEPTS) -> Atlas:
    """Fetch the packages and draw every icon; cached in `cache/atlas.pt`.

    Raises:
        LookupError: a concept has icons of fewer than two artists.
    """
    saved = cache / "atlas.pt"
    if saved.exists():
        return Atlas(**torch.load(saved))
    packs = [IconPack(fetch(source, cache / "icons")) for source in SOURCES]
    rows: list[tuple[np.ndarray, int, int, np.ndarray, np.ndarray]] = []
    for index, concept in enumerate(concepts):
        artists = set()
        for pack_index, pack in enumerate(packs):
            for name in concept.icons:
                svg = pack.svg(name, size_px=4 * size_px)
                if svg is not None:
                    image = fill_square(rasterise(svg), size_px)
                    rows.append((image, index, pack_index, *palette(image)))
                    artists.add(pack_index)
        if len(artists) < 2:
            raise LookupError(f"{concept.name}: icons of {len(artists)} artist(s), two are needed")
    rgba = torch.from_numpy(np.stack([row[0] for row in rows])).float().div(255)
    rgba[..., :3] *= rgba[..., 3:]
    atlas = Atlas(
        icons_N4SS=rgba.permute(0, 3, 1, 2).contiguous(),
        concept_N=torch.tensor([row[1] for row in rows]),
        source_N=torch.tensor([row[2] for row in rows]),
        palette_NK3=torch.from_numpy(np.stack([row[3] for row in rows])),
        weight_NK=torch.from_numpy(np.stack([row[4] for row in rows])),
    )
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(vars(atlas), saved)
    return atlas
