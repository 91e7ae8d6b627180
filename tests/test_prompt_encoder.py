"""A pipeline's text encoding: negatives once, masks by caption, the unknown left alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from generators.images.lanes import OneLane
from generators.images.prompt_encoder import PromptEncoder

WIDTH = 5


def embedding(text: str, length: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(text))
    return torch.randn(1, length, WIDTH, generator=generator)


def mask(text: str) -> torch.Tensor:
    return (torch.arange(3) <= len(text) % 3)[None]


class Pipelines:
    """`encode_prompt` as several pipelines have it; counts the texts that are encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def _encode(self, texts: list[str], num_images: int) -> torch.Tensor:
        self.encoded += texts
        return torch.cat([embedding(text) for text in texts]).repeat_interleave(num_images, 0)

    def stable_diffusion(
        self,
        prompt: list[str],
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        positive = self._encode(prompt, num_images_per_prompt)
        if not do_classifier_free_guidance:
            return positive, None
        negatives = negative_prompt or [""] * len(prompt)
        return positive, self._encode(negatives, num_images_per_prompt)

    def sana(
        self,
        prompt: list[str],
        do_classifier_free_guidance: bool = True,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
    ) -> tuple[Any, ...]:
        """With the masks of diffusers 0.42: by batch, not by caption."""
        positive = self._encode(prompt, num_images_per_prompt)
        positive_mask = torch.cat([mask(text) for text in prompt]).repeat(num_images_per_prompt, 1)
        if not do_classifier_free_guidance:
            return positive, positive_mask, None, None
        negatives = [negative_prompt] * len(prompt)
        negative = self._encode(negatives, num_images_per_prompt)
        negative_mask = torch.cat([mask(text) for text in negatives])
        return positive, positive_mask, negative, negative_mask.repeat(num_images_per_prompt, 1)

    def longest(
        self, prompt: list[str], num_images_per_prompt: int, do_classifier_free_guidance: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As long as its longest prompt: what was kept may not fit."""
        length = max(len(text) for text in prompt)
        positive = torch.cat([embedding(text, length) for text in prompt])
        self.encoded += prompt
        negative = torch.zeros_like(positive) if do_classifier_free_guidance else None
        pair = (positive, negative)
        return tuple(
            one if one is None else one.repeat_interleave(num_images_per_prompt, 0) for one in pair
        )  # type: ignore[return-value]

    def flux(self, prompt: list[str], num_images_per_prompt: int = 1) -> tuple[torch.Tensor, ...]:
        """Its third output has no row a caption."""
        return self._encode(prompt, num_images_per_prompt), torch.zeros(len(prompt), 3)


def encoder(of: Callable[..., Any]) -> PromptEncoder:
    return PromptEncoder(of, OneLane())


def same(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    return len(found) == len(wanted) and all(
        (one is None and other is None) or torch.equal(one, other)
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("negative", [None, ["ugly"] * 3])
def test_outputs_are_the_pipelines_own(negative: list[str] | None) -> None:
    pipelines = Pipelines()
    encode = encoder(pipelines.stable_diffusion)
    for prompt in (["a", "bb", "ccc"], ["dd", "a", "a"]):
        wanted = pipelines.stable_diffusion(prompt, 2, True, negative)
        assert same(encode(prompt, 2, True, negative), wanted)
        assert same(encode(prompt, 2, False), pipelines.stable_diffusion(prompt, 2, False))


def test_the_negative_prompt_is_encoded_once() -> None:
    pipelines = Pipelines()
    encode = encoder(pipelines.stable_diffusion)
    encode(["a", "bb"], 4, True, ["ugly"] * 2)
    assert pipelines.encoded.count("ugly") == 1
    pipelines.encoded.clear()
    encode(["ccc", "dd"], 4, True, ["ugly"] * 2)
    assert pipelines.encoded == ["ccc", "dd"]
    encode(["ccc", "dd"], 4, True, ["blurred"] * 2)
    assert "blurred" in pipelines.encoded, "another one is not taken for it"


def test_different_negative_prompts_of_one_batch_are_kept_apart() -> None:
    pipelines = Pipelines()
    wanted = pipelines.stable_diffusion(["a", "bb"], 2, True, ["ugly", "no"])
    assert same(encoder(pipelines.stable_diffusion)(["a", "bb"], 2, True, ["ugly", "no"]), wanted)


def test_every_picture_gets_its_own_captions_mask() -> None:
    prompt = ["a", "bb", "ccc"]
    found = encoder(Pipelines().sana)(prompt, num_images_per_prompt=2)
    own = [text for text in prompt for _ in range(2)]
    assert torch.equal(found[0], torch.cat([embedding(text) for text in own]))
    assert torch.equal(found[1], torch.cat([mask(text) for text in own]))
    assert torch.equal(found[2], torch.cat([embedding("")] * 6))
    assert torch.equal(found[3], torch.cat([mask("")] * 6))


def test_embeddings_of_changing_length_are_the_pipelines_own() -> None:
    pipelines = Pipelines()
    encode = encoder(pipelines.longest)
    for prompt in (["a", "bb"], ["a", "ccc"], ["a"]):
        assert same(encode(prompt, 2, True), pipelines.longest(prompt, 2, True))


def test_a_pipeline_without_guidance_is_left_alone() -> None:
    pipelines = Pipelines()
    wanted = pipelines.flux(["a", "bb"], 3)
    assert same(encoder(pipelines.flux)(["a", "bb"], 3), wanted)
