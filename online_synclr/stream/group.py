"""The unit that travels: a group of images with its recipe."""

from dataclasses import dataclass

import msgspec
import numpy as np

from online_synclr.seeds import noise_seed

SeedKey = tuple[int, int, int, int]
"""(run seed, incarnation, stream, counter): with the image index, what noise is made from."""


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seeds of a group's first rendering, where this one repeats it from a ledger."""

    run_seed: int
    incarnation: int
    stream: int
    counter: int

    @property
    def seed_key(self) -> SeedKey:
        """As a key."""
        return (self.run_seed, self.incarnation, self.stream, self.counter)


class Recipe(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What re-renders a group.

    `run_seed`, `incarnation`, `stream`, `counter` key the concept draw, the prompt, the LLM's
    sampling and, with the image index, the noise. The fingerprints name models and settings. A
    group rendered from a ledger keeps numbers of its own, and its noise is that of `origin`.
    """

    caption: str
    concept: str
    source: str
    template: str
    background: str
    relation: str
    run_seed: int
    incarnation: int
    stream: int
    counter: int
    num_images: int
    llm_fingerprint: str
    image_fingerprint: str
    origin: Origin | None = None

    @property
    def own_key(self) -> SeedKey:
        """This rendering's own numbers: no two groups of a run share them."""
        return (self.run_seed, self.incarnation, self.stream, self.counter)

    @property
    def noise_key(self) -> SeedKey:
        """What the noise is made from: the first rendering's numbers."""
        return self.own_key if self.origin is None else self.origin.seed_key

    def noise_seeds(self) -> list[int]:
        """One seed an image, in image order."""
        return [noise_seed(*self.noise_key, image) for image in range(self.num_images)]


@dataclass(frozen=True, slots=True)
class Group:
    """Images of one caption. `images_mchw`: uint8, (num_images, 3, height, width), contiguous."""

    recipe: Recipe
    images_mchw: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes of the images, as counted against the pool's bound."""
        return self.images_mchw.nbytes
