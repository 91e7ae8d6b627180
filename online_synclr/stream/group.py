"""The unit that travels: a group of images with its recipe."""

from dataclasses import dataclass

import msgspec
import numpy as np

from online_synclr.seeds import noise_seed


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What re-renders a group.

    `run_seed`, `incarnation`, `stream`, `counter` key the concept draw, the prompt, the LLM's
    sampling and, with the image index, the noise. The fingerprints name models and settings.
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

    def noise_seeds(self) -> list[int]:
        """One seed an image, in image order."""
        key = (self.run_seed, self.incarnation, self.stream, self.counter)
        return [noise_seed(*key, image) for image in range(self.num_images)]


@dataclass(frozen=True, slots=True)
class Group:
    """Images of one caption. `images_mchw`: uint8, (num_images, 3, height, width), contiguous."""

    recipe: Recipe
    images_mchw: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes of the images, as counted against the pool's bound."""
        return self.images_mchw.nbytes
