"""Codes: what an icon looks like, in few numbers, for the text encoder to learn by heart.

An icon is cut into 4 x 4 patches; a patch becomes its first principal components over all icons.
The text encoder is taught to say them (`text_encoder.py`), so the denoiser is told what the thing
looks like, patch by patch, and needs to learn only how to paint what it is told: one skill for all
concepts, where a denoiser that reads arbitrary word vectors has to learn every icon by itself.
"""

from __future__ import annotations

import torch

from recipes.embedded_image_model.atlas import Atlas
from recipes.embedded_image_model.sources import SOURCES

PATCHES_A_SIDE = 4
PATCHES = PATCHES_A_SIDE**2
COMPONENTS = 24
CODE = COMPONENTS * len(SOURCES)


def patches(images_NCSS: torch.Tensor) -> torch.Tensor:
    """Images cut into patches, row by row: (N, C, S, S) to (N, 16, C * (S / 4)**2)."""
    count, channels, side, _ = images_NCSS.shape
    a, b = PATCHES_A_SIDE, side // PATCHES_A_SIDE
    cut = images_NCSS.reshape(count, channels, a, b, a, b).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(count, PATCHES, channels * b * b)


def components(points_ND: torch.Tensor, count: int) -> torch.Tensor:
    """Coordinates along the `count` main axes of points about their mean: (N, count)."""
    centred = points_ND - points_ND.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, -count:].flip(-1)


def of_concepts(atlas: Atlas, num_concepts: int) -> torch.Tensor:
    """Codes of all concepts: (K, 16, 72), of every artist one after the other, deviation one.

    Several icons of one artist are averaged; a missing artist's part is the other artists' mean.
    """
    cut = patches(atlas.icons_N4SS)
    coded = components(cut.flatten(0, 1), COMPONENTS).view(len(cut), PATCHES, COMPONENTS)
    codes = torch.zeros(num_concepts, PATCHES, len(SOURCES), COMPONENTS)
    for concept in range(num_concepts):
        of_artist = [coded[atlas.of_concept(concept, (s,))] for s in range(len(SOURCES))]
        every = coded[atlas.of_concept(concept)].mean(dim=0)
        for source, found in enumerate(of_artist):
            codes[concept, :, source] = found.mean(dim=0) if len(found) else every
    return codes.flatten(2) / codes.std()
