"""Pictures made of random shapes: a stand-in for a text-to-image model."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from generators.fingerprint import fingerprint
from generators.images.renderer import Finished, Rendered
from online_synclr.config.schema import ImagesConfig
from online_synclr.stream.group import Group, Recipe

_BLOBS = 4


class SyntheticRenderer:
    """Synthetic: coloured blobs, alike within a caption; there is no image model behind it.

    Deterministic: a picture depends on its caption and its noise seed. With
    `images.rate_images_per_s`, `render` waits until the rate is kept; `close` ends that wait.
    """

    def __init__(
        self, settings: ImagesConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._px = settings.send_px
        self._rate = settings.rate_images_per_s
        self._clock = clock
        self._next = clock()
        self._closed = threading.Event()
        self.fingerprint = f"synthetic:{fingerprint({'px': self._px, 'blobs': _BLOBS})}"

    def render(self, recipes: Sequence[Recipe]) -> list[Rendered]:
        """See `Renderer.render`; exact, whatever else is in the call."""
        rendered = [Rendered(Group(recipe, self._pictures(recipe)), True) for recipe in recipes]
        self._keep_rate(sum(recipe.num_images for recipe in recipes))
        return rendered

    def submit(self, recipes: Sequence[Recipe]) -> Finished:
        """See `Renderer.submit`."""
        return Finished(self.render(recipes))

    def close(self) -> None:
        """End a wait."""
        self._closed.set()

    def _pictures(self, recipe: Recipe) -> np.ndarray:
        digest = hashlib.blake2b(recipe.caption.encode(), digest_size=8).digest()
        caption_rng = np.random.default_rng(int.from_bytes(digest, "little"))
        blobs = caption_rng.random((_BLOBS, 6))
        pictures = [_picture(blobs, seed, self._px) for seed in recipe.noise_seeds()]
        return np.ascontiguousarray(np.stack(pictures))

    def _keep_rate(self, num_images: int) -> None:
        if not self._rate:
            return
        now, duration = self._clock(), num_images / self._rate
        # The work is part of the duration; time lost before this call is not caught up.
        self._next = max(self._next, now - duration) + duration
        self._closed.wait(max(0.0, self._next - now))


def _picture(blobs: np.ndarray, seed: int, px: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    axis = np.linspace(0.0, 1.0, px, dtype=np.float32)
    picture = np.full((3, px, px), rng.uniform(0.1, 0.9), np.float32)
    for red, green, blue, x, y, size in blobs:
        dx, dy = rng.normal(0.0, 0.05, 2)
        distance = (axis - x - dx)[None, :] ** 2 + (axis - y - dy)[:, None] ** 2
        inside = distance < (0.1 + 0.2 * size) ** 2
        picture[:, inside] = np.array([[red], [green], [blue]], np.float32)
    picture += rng.normal(0.0, 0.03, picture.shape).astype(np.float32)
    return (picture.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
