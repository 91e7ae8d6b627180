"""Masks: equal counts, explicit randomness, positions that agree with the index."""

import torch

from online_synclr.config.schema import MimConfig
from trainer.objective.masking import Mask, draw_mask, masked_counts


def draw(mim: MimConfig, seed: int, num_crops: int = 10, num_tokens: int = 16) -> Mask:
    return draw_mask(
        num_crops,
        num_tokens,
        mim,
        generator=torch.Generator().manual_seed(seed),
    )


def test_half_of_the_images_have_half_of_their_tokens_masked() -> None:
    for seed in range(20):
        per_image = draw(MimConfig(), seed).mask_KT.sum(dim=1)
        assert sorted(per_image.tolist()) == [0] * 5 + [8] * 5


def test_every_seed_masks_equally_much_but_elsewhere() -> None:
    mim = MimConfig(image_share=0.3, token_share=0.4)
    masks = [draw(mim, seed) for seed in range(10)]
    assert {mask.index_R.numel() for mask in masks} == {3 * 6}
    assert len({tuple(mask.index_R.tolist()) for mask in masks}) == 10
    assert torch.equal(masks[3].index_R, draw(mim, 3).index_R)


def test_index_and_mask_are_the_same_tokens_image_by_image() -> None:
    mask = draw(MimConfig(), 1)
    assert torch.equal(mask.index_R, mask.mask_KT.flatten().nonzero()[:, 0])


def test_every_image_and_token_is_masked_sooner_or_later() -> None:
    total = sum(draw(MimConfig(), seed).mask_KT.float() for seed in range(200))
    assert isinstance(total, torch.Tensor)
    share = total / 200
    assert share.min() > 0.1
    assert share.max() < 0.4


def test_counts_never_vanish_and_never_exceed() -> None:
    assert masked_counts(3, 4, MimConfig(image_share=0.01, token_share=0.01)) == (1, 1)
    assert masked_counts(3, 4, MimConfig(image_share=1.0, token_share=1.0)) == (3, 4)
    assert masked_counts(32, 64, MimConfig()) == (16, 32)
