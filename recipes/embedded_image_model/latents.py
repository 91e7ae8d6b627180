"""The pool the denoiser trains on: latents of composed scenes with their captions.

Encoding costs more than composing, so a latent is used a few times. The pool is a ring: every
refresh overwrites its oldest rows with scenes never seen before.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.embedded_image_model import captions, colours, text_encoder, vae
from recipes.embedded_image_model.compose import Composer, Wish
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import Config

EMPTY_SHARE = 0.03


class Captioner:
    """Drafts captions: from templates, and those the LLM wrote; never one of `avoid`.

    about: the concepts that come first in a caption; all of them if not given.
    """

    def __init__(
        self,
        records: list[dict],
        config: Config,
        *,
        seed: int,
        avoid: Iterable[str] = (),
        about: Sequence[int] = (),
    ) -> None:
        self._config = config
        self._about = list(about) or list(range(len(CONCEPTS)))
        self._avoid = {plain(text) for text in avoid}
        self._rng = random.Random(seed)
        self._free: list[list[captions.Draft]] = [[] for _ in CONCEPTS]
        for record in records:
            draft = captions.free_draft(record["concept"], record["caption"], record["background"])
            if draft is not None and plain(draft.text) not in self._avoid:
                self._free[draft.wish.concept].append(draft)

    def draft(self) -> captions.Draft:
        """One caption about a random concept."""
        concept = self._rng.choice(self._about)
        if self._free[concept] and self._rng.random() < self._config.captions.share:
            return self._rng.choice(self._free[concept])
        while True:
            share = self._config.unet.pair_share
            draft = captions.template_draft(concept, self._rng, pair_share=share)
            if plain(draft.finish(-1)) not in self._avoid:
                return draft

    def reading(self) -> tuple[str, Wish | None]:
        """A caption without a scene, and what it should be read as; at times an empty one."""
        if self._rng.random() < EMPTY_SHARE:
            return "", None
        draft = self.draft()
        if not draft.name_colour:
            return draft.text, draft.wish
        colour = self._rng.randrange(-1, len(colours.NAMES))
        wish = replace(draft.wish, colour=colour if colour >= 0 else None)
        return draft.finish(colour), wish


def plain(caption: str) -> str:
    """A caption without case and full stop."""
    return caption.lower().rstrip(".")


@dataclass(frozen=True)
class Batch:
    """latents_BCHW: float32; states_BTD: bfloat16, what the text encoder says of the captions."""

    latents_BCHW: torch.Tensor
    states_BTD: torch.Tensor


class LatentPool:
    """The ring of latents with their captions' text states."""

    def __init__(
        self,
        *,
        composer: Composer,
        captioner: Captioner,
        codec: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        text: CLIPTextModel,
        size: int,
        seed: int,
    ) -> None:
        self._composer, self._captioner = composer, captioner
        self._codec, self._tokenizer, self._text = codec, tokenizer, text
        self._rng = torch.Generator().manual_seed(seed)
        self._next = 0
        self._latents = torch.empty(size, vae.LATENT_CHANNELS, 8, 8, dtype=torch.float16)
        states_TD = (tokenizer.model_max_length, text.config.hidden_size)
        self._states = torch.empty(size, *states_TD, dtype=torch.bfloat16)
        for _ in range(0, size, 256):
            self.refresh(min(256, size))

    def refresh(self, count: int) -> None:
        """Replace the `count` oldest rows by new scenes."""
        drafts = [self._captioner.draft() for _ in range(count)]
        scenes = self._composer.compose([draft.wish for draft in drafts])
        texts = [
            draft.finish(colour)
            for draft, colour in zip(drafts, scenes.colour_B.tolist(), strict=True)
        ]
        rows = (self._next + torch.arange(count)) % len(self._latents)
        pixels = scenes.images_B3SS.mul(255).round().to(torch.uint8)
        self._latents[rows] = vae.encode(self._codec, pixels)
        self._states[rows] = text_encoder.states(self._text, tokenise(self._tokenizer, texts))
        self._next = int(rows[-1] + 1) % len(self._latents)

    def draw(self, count: int) -> Batch:
        """Random rows."""
        rows = torch.randint(len(self._latents), (count,), generator=self._rng)
        return Batch(self._latents[rows].float(), self._states[rows])


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token rows (B, T) the way the stock pipeline makes them."""
    made = tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return made.input_ids


def caption_corpus(records: list[dict], config: Config, *, count: int) -> list[str]:
    """Template captions and the LLM's, for the tokenizer."""
    captioner = Captioner([], config, seed=config.seed)
    texts = [captioner.draft().finish(index % len(colours.NAMES)) for index in range(count)]
    return texts + 2 * [record["caption"] for record in records]
