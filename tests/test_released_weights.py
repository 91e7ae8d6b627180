"""The authors' released weights: made-up states with the names that they published.

Written out by hand from their repository's network, not derived from timm's.
"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from evaluation.errors import EvaluationError
from evaluation.load import load_backbone
from evaluation.sources.released import UNVERIFIED

DIM, DEPTH, PATCH_PX, GRID = 128, 2, 16, 3
IN_BLOCK = {
    "norm1.weight": (DIM,),
    "norm1.bias": (DIM,),
    "attn.qkv.weight": (3 * DIM, DIM),
    "attn.qkv.bias": (3 * DIM,),
    "attn.proj.weight": (DIM, DIM),
    "attn.proj.bias": (DIM,),
    "norm2.weight": (DIM,),
    "norm2.bias": (DIM,),
    "mlp.fc1.weight": (4 * DIM, DIM),
    "mlp.fc1.bias": (4 * DIM,),
    "mlp.fc2.weight": (DIM, 4 * DIM),
    "mlp.fc2.bias": (DIM,),
}
AROUND = {
    "cls_token": (1, 1, DIM),
    "pos_embed": (1, GRID * GRID + 1, DIM),
    "patch_embed.proj.weight": (DIM, 3, PATCH_PX, PATCH_PX),
    "patch_embed.proj.bias": (DIM,),
    "norm.weight": (DIM,),
    "norm.bias": (DIM,),
}


def made_up_state(prefix: str) -> dict[str, torch.Tensor]:
    shapes = AROUND | {
        f"blocks.{block}.{name}": shape
        for block in range(DEPTH)
        for name, shape in IN_BLOCK.items()
    }
    generator = torch.Generator().manual_seed(3)
    return {
        f"{prefix}{name}": 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def write(folder: Path, content: Any) -> str:
    file = folder / "synclr_vit_b_16.pth"
    torch.save(content, file)
    return f"synclr:{file}"


@pytest.mark.parametrize("prefix", ["module.visual.", "visual.", ""])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_published_names_become_timms(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = made_up_state(prefix)
    others = {
        f"{prefix}head.mlp.0.weight": torch.ones(3),
        f"{prefix}mask_token": torch.ones(1, 1, DIM),
    }
    if prefix:
        others |= {"module.logit_scale": torch.ones(()), "module.image_mlp.0.weight": torch.ones(2)}
    loaded = load_backbone(write(tmp_path, {key: state | others} if key else state | others))
    assert UNVERIFIED in loaded.origin
    assert loaded.image_px == GRID * PATCH_PX
    assert loaded.mean == (0.48145466, 0.4578275, 0.40821073)  # as in the authors' evaluation
    plain = timm.create_model(
        "vit_base_patch16_224", img_size=48, embed_dim=DIM, depth=DEPTH, num_heads=2, num_classes=0
    )
    plain.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
    images = torch.randn(2, 3, 48, 48)
    expected = plain.eval().forward_features(images)
    torch.testing.assert_close(loaded.features(images), expected[:, 0])
    torch.testing.assert_close(loaded.patch_tokens(images).flatten(1, 2), expected[:, 1:])


def test_other_sizes_have_their_positions_resampled(tmp_path: Path) -> None:
    loaded = load_backbone(write(tmp_path, {"model": made_up_state("visual.")}), image_px=64)
    assert loaded.image_px == 64
    assert loaded.patch_tokens(torch.randn(1, 3, 64, 64)).shape == (1, 4, 4, DIM)


class Harmful:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"module.encoder.weight": torch.ones(2)}}, "none of the names .*encoder.weight"),
        ({"model": {"visual.cls_token": torch.ones(1, 1, 8)}}, "no patch_embed.proj.weight"),
        ({"model": Harmful()}, "cannot be read as weights alone"),
        ([1, 2], "holds no weights by name"),
    ],
    ids=["other names", "one name", "code", "a list"],
)
def test_other_files_are_one_line(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        load_backbone(write(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = made_up_state("module.visual.")
    state.pop("module.visual.blocks.1.attn.proj.bias")
    with pytest.raises(EvaluationError, match=r"blocks\.1\.attn\.proj\.bias"):
        load_backbone(write(tmp_path, {"model": state}))
