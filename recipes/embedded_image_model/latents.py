"""The pool the denoiser trains on: latents of composed scenes with their captions.

Encoding costs more than composing, so a latent is used a few times. The pool is a ring: every
refresh overwrites its oldest rows with scenes never seen before.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.embedded_image_model import captions, llm, vae
from recipes.embedded_image_model.compose import Composer
from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import Config

CAPTIONS_EVERY = 50


class Captioner:
    """Drafts captions: from templates, or from the file the LLM fills, read again as it grows."""

    def __init__(self, llm_file: Path, config: Config, *, seed: int) -> None:
        self._file, self._config = llm_file, config
        self._rng = random.Random(seed)
        self._read_lines = 0
        self._free: list[list[captions.Draft]] = [[] for _ in CONCEPTS]

    def refresh(self) -> None:
        """Take up what the LLM has written since (whole lines only)."""
        if not self._file.exists():
            return
        lines = self._file.read_text(encoding="utf-8").split("\n")[:-1]
        for line in lines[self._read_lines :]:
            record = json.loads(line)
            draft = captions.free_draft(record["concept"], record["caption"], record["background"])
            self._free[record["concept"]].append(draft)
        self._read_lines = len(lines)

    def draft(self) -> captions.Draft:
        """One caption about a random concept."""
        concept = self._rng.randrange(len(CONCEPTS))
        if self._free[concept] and self._rng.random() < self._config.captions.share:
            return self._rng.choice(self._free[concept])
        return captions.template_draft(concept, self._rng, pair_share=self._config.unet.pair_share)


@dataclass(frozen=True)
class Batch:
    """latents_BCHW: float32; tokens_BT: int64, padded; concept_B: the caption's concept.

    states_BTD: the frozen text encoder's output, None while it still learns.
    """

    latents_BCHW: torch.Tensor
    tokens_BT: torch.Tensor
    concept_B: torch.Tensor
    states_BTD: torch.Tensor | None


class LatentPool:
    """The ring of latents, token rows and concepts."""

    def __init__(
        self,
        *,
        composer: Composer,
        captioner: Captioner,
        codec: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        size: int,
        seed: int,
        text: CLIPTextModel | None = None,
    ) -> None:
        self._composer, self._captioner = composer, captioner
        self._codec, self._tokenizer = codec, tokenizer
        self._rng = torch.Generator().manual_seed(seed)
        self._next = 0
        self._refreshes = 0
        self._latents = torch.empty(size, vae.LATENT_CHANNELS, 8, 8, dtype=torch.float16)
        self._tokens = torch.empty(size, tokenizer.model_max_length, dtype=torch.int16)
        self._concept = torch.empty(size, dtype=torch.int64)
        self._text, self._states = text, None
        if text is not None:
            width = text.config.hidden_size
            self._states = torch.empty(*self._tokens.shape, width, dtype=torch.bfloat16)
        for _ in range(0, size, 256):
            self.refresh(min(256, size))

    def refresh(self, count: int) -> None:
        """Replace the `count` oldest rows by new scenes."""
        if self._refreshes % CAPTIONS_EVERY == 0:
            self._captioner.refresh()
        self._refreshes += 1
        drafts = [self._captioner.draft() for _ in range(count)]
        scenes = self._composer.compose([draft.wish for draft in drafts])
        texts = [
            draft.finish(colour)
            for draft, colour in zip(drafts, scenes.colour_B.tolist(), strict=True)
        ]
        rows = (self._next + torch.arange(count)) % len(self._concept)
        pixels = scenes.images_B3SS.mul(255).round().to(torch.uint8)
        self._latents[rows] = vae.encode(self._codec, pixels)
        tokens_RT = tokenise(self._tokenizer, texts)
        self._tokens[rows] = tokens_RT.to(torch.int16)
        if self._states is not None:
            self._states[rows] = text_states(self._text, tokens_RT)
        self._concept[rows] = torch.tensor([draft.wish.concept for draft in drafts])
        self._next = int(rows[-1] + 1) % len(self._concept)

    @property
    def text(self) -> CLIPTextModel | None:
        """The frozen text encoder whose states the rows hold; None while it still learns."""
        return self._text

    def draw(self, count: int) -> Batch:
        """Random rows."""
        rows = torch.randint(len(self._concept), (count,), generator=self._rng)
        states = None if self._states is None else self._states[rows]
        return Batch(
            self._latents[rows].float(), self._tokens[rows].long(), self._concept[rows], states
        )


@torch.no_grad()
def text_states(text: CLIPTextModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    """What the denoiser reads of a caption: (B, T, D) bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return text(tokens_BT).last_hidden_state.bfloat16()


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


def caption_corpus(llm_file: Path, config: Config, *, count: int) -> list[str]:
    """Template captions and every LLM caption so far, for the tokenizer."""
    captioner = Captioner(Path("/nonexistent"), config, seed=config.seed)
    texts = []
    for index in range(count):
        draft = captioner.draft()
        texts.append(draft.finish(index % 12))
    if llm_file.exists():
        texts += 2 * [record["caption"] for record in llm.read_captions(llm_file)]
    return texts
