"""Captions from fixed phrases: a stand-in for a language model, for tests and transport runs."""

from collections.abc import Sequence

import numpy as np

from generators.fingerprint import fingerprint
from generators.language.base import Completion

_LOOKS = ("small", "large", "bright", "old", "shiny", "wet", "dusty", "lonely", "pale", "striped")
_PLACES = (
    "on a wooden table",
    "in a green meadow",
    "beside a brick wall",
    "under a cloudy sky",
    "on a sandy beach",
    "in deep snow",
    "in front of a window",
    "on a quiet street",
    "near a river",
    "against a dark background",
)
_TIMES = ("at dawn", "at noon", "at dusk", "at night", "in the rain", "in soft light", "in fog")
_VIEWS = ("seen from above", "seen from below", "close up", "from far away", "from the side")


class TemplateModel:
    """Synthetic: fills phrases by chance; there is no language model behind it."""

    fingerprint = f"template:{fingerprint({'phrases': [_LOOKS, _PLACES, _TIMES, _VIEWS]})}"

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """One phrase for what the last line of each prompt asks for."""
        return [
            Completion(_phrase(prompt, seed), finished=True)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def close(self) -> None:
        """Nothing is held."""


def _phrase(prompt: str, seed: int) -> str:
    asked = prompt.rsplit("\n", 1)[-1].removesuffix("=>")
    concept, _, extra = (part.strip() for part in asked.partition(","))
    concept = concept.split("(", 1)[0].strip()
    rng = np.random.default_rng(seed)
    look, place, when, view = (
        str(rng.choice(phrases)) for phrases in (_LOOKS, _PLACES, _TIMES, _VIEWS)
    )
    where = f"with {extra}" if extra else place
    return f"A {look} {concept} {where} {when}, {view}."
