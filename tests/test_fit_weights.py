"""A ViT's weights in another one of other sizes: what it computes stays what it was."""

from typing import Any

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch.nn import functional

from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.fit_weights import MisfitError, Source, fit

HALF = (0.5, 0.5, 0.5)


def make_vit(seed: int = 0, **arguments: Any) -> VisionTransformer:
    """A small one with weights that all matter."""
    torch.manual_seed(seed)
    settings = {
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "img_size": 32,
        "num_classes": 0,
        "dynamic_img_size": True,
    }
    vit = timm.create_model("vit_tiny_patch16_224", **{**settings, **arguments})
    assert isinstance(vit, VisionTransformer)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return vit.eval()


def fitted(source: Source, vit: VisionTransformer) -> VisionTransformer:
    result = fit(source, vit)
    own = vit.state_dict()
    vit.load_state_dict({**{name: own[name] for name in result.left}, **result.weights})
    return vit


def plain(vit: VisionTransformer, **norm: Any) -> Source:
    return Source(vit, vit.state_dict(), **norm)


def normalised(images: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    shape = (3, 1, 1)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def test_the_same_architecture_takes_all_as_it_is() -> None:
    vit = make_vit()
    result = fit(plain(vit), make_vit(1))
    assert (result.notes, result.left) == ((), ())
    assert all(torch.equal(result.weights[name], value) for name, value in vit.state_dict().items())


def test_positions_of_another_size_are_those_timm_would_make_at_every_call() -> None:
    vit = make_vit()
    larger = fitted(plain(vit), make_vit(1, img_size=48))
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(larger(images), vit(images), rtol=1e-4, atol=1e-5)
    assert larger.pos_embed.shape[1] == 1 + 36
    assert torch.equal(larger.pos_embed[:, 0], vit.pos_embed[:, 0])


@pytest.mark.parametrize("arguments", [{}, {"pre_norm": True}])
def test_another_normalisation_of_the_input_is_folded_in(arguments: dict[str, Any]) -> None:
    """With `pre_norm` the patch embedding has no bias: positions take the shift."""
    vit = make_vit(**arguments)
    ours = fitted(plain(vit, mean=HALF, std=HALF), make_vit(1, **arguments))
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        ours(normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)),
        vit(normalised(pixels, HALF, HALF)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_resized_patches_embed_resized_pixels_alike() -> None:
    """FlexiViT's property: enlarging loses nothing, so the embeddings are equal."""
    vit = make_vit()
    ours = fitted(plain(vit), make_vit(1, patch_size=16, img_size=64))
    patch = torch.rand(3, 3, 8, 8)
    enlarged = functional.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True)
    small, large = (
        functional.conv2d(pixels, one.patch_embed.proj.weight, one.patch_embed.proj.bias)
        for pixels, one in ((patch, vit), (enlarged, ours))
    )
    torch.testing.assert_close(large, small, rtol=1e-3, atol=1e-3)


def test_the_class_tokens_position_becomes_part_of_the_token() -> None:
    vit = make_vit()
    ours = fitted(plain(vit), make_vit(1, no_embed_class=True))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), vit(images), rtol=1e-4, atol=1e-5)
    back = fitted(plain(ours), make_vit(2))
    torch.testing.assert_close(back(images), vit(images), rtol=1e-4, atol=1e-5)


def test_registers_with_positions_become_registers_without() -> None:
    vit = make_vit(reg_tokens=2)
    ours = fitted(plain(vit), make_vit(1, reg_tokens=2, no_embed_class=True, img_size=16))
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ours(images), vit(images), rtol=1e-4, atol=1e-5)


def test_new_registers_stay_as_they_are_made() -> None:
    ours = make_vit(1, reg_tokens=2, no_embed_class=True)
    registers = ours.reg_token.detach().clone()
    assert fit(plain(make_vit()), ours).left == ("reg_token",)
    fitted(plain(make_vit()), ours)
    assert torch.equal(ours.reg_token, registers)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"embed_dim": 48}, r"cls_token \(\(1, 1, 48\) there, \(1, 1, 24\) here\)"),
        ({"depth": 3}, r"12 weights differ: blocks\.2\..* there, missing here\).* and 8 more"),
        ({"init_values": 1e-5}, r"4 weights differ: blocks\.0\.ls1\.gamma"),
        ({"reg_tokens": 2, "no_embed_class": True}, r"1 weights differ: reg_token"),
        ({"pre_norm": True}, r"norm_pre\.weight \(\(24,\) there, missing here\)"),
    ],
)
def test_what_does_not_fit_is_listed(theirs: dict[str, Any], words: str) -> None:
    with pytest.raises(MisfitError, match=words):
        fit(plain(make_vit(**theirs)), make_vit(1))
