"""What names of backbones mean: the same features as where the weights come from, or one line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from evaluation.errors import EvaluationError
from evaluation.load import load_backbone
from evaluation.sources import plain_vit as plain_vit_module
from evaluation.sources.frozen import freeze
from evaluation.sources.plain_vit import plain_vit
from evaluation.sources.runs import frozen_vit
from evaluation.sources.swiglu import ARCHITECTURE
from tests.rank_pool import RankPool
from tests.saved_run import STEP, saved_run
from tests.test_checkpoint import save_from_two
from tests.tiny_objective import tiny_trainer
from trainer import checkpoint_files
from trainer.objective import backbone
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.backbone import build_backbone

TINY = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"init_values": 0.1, "reg_tokens": 3, "no_embed_class": True},
    {"reg_tokens": 2, "qkv_bias": False, "weight_init": "jax", "proj_drop_rate": 0.3},
    {"fc_norm": True, "pre_norm": True, "norm_layer": "rmsnorm"},
]


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def images(side: int, num: int = 2) -> torch.Tensor:
    return torch.randn((num, 3, side, side), generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize("arguments", VARIANTS, ids=lambda one: ",".join(one) or "plain")
@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_run_gives_the_features_of_its_own_backbone(
    tmp_path: Path, network: str, arguments: dict[str, Any]
) -> None:
    """At the size of its training and at others; the student's mask token is left out."""
    _, model = saved_run(tmp_path, backbone_args={**TINY, **arguments})
    loaded = load_backbone(f"{tmp_path}:{network}")
    own = getattr(model, network).backbone.eval()
    for side in (16, 8, 24):
        expected_cls, expected_patches = own.forward_tokens(images(side))
        found = loaded.features(images(side))
        torch.testing.assert_close(found, own(images(side)), rtol=0, atol=1e-5)
        torch.testing.assert_close(found, expected_cls, rtol=0, atol=1e-5)
        tokens = loaded.patch_tokens(images(side))
        assert tokens.shape == (2, side // 4, side // 4, 16)
        torch.testing.assert_close(tokens.flatten(1, 2), expected_patches, rtol=0, atol=1e-5)
    assert (loaded.image_px, loaded.feature_dim) == (16, 16)
    assert (loaded.mean, loaded.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_the_teacher_is_meant_and_the_newest_checkpoint(tmp_path: Path) -> None:
    saved_run(tmp_path, step=2)
    saved_run(tmp_path, step=10)
    unsaid = load_backbone(str(tmp_path))
    identities = {
        name: load_backbone(f"{tmp_path}{name}").identity
        for name in (
            ":teacher",
            ":student",
            "/checkpoints/step_00000010",
            "/checkpoints/step_00000002:teacher",
        )
    }
    assert "teacher" in unsaid.origin
    assert "10 steps" in unsaid.origin
    assert unsaid.identity == identities[":teacher"] == identities["/checkpoints/step_00000010"]
    assert len(set(identities.values())) == 3


@pytest.mark.slow
def test_sharded_trainers_write_what_is_read(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(save_from_two, tmp_path, "fsdp")
    loaded = load_backbone(str(tmp_path))
    [file] = tmp_path.glob("checkpoints/*/checkpoint.pt")
    state = checkpoint_files.parse_file(file)
    own = build_backbone(tiny_trainer(), drop_path=0.0, mask_token=False)
    prefix = "backbone."
    own.load_state_dict(
        {name[len(prefix) :]: value for name, value in state["teacher"].items() if prefix in name}
    )
    torch.testing.assert_close(loaded.features(images(16)), own(images(16)), rtol=0, atol=1e-5)


def test_another_input_size_has_its_positions_resampled(tmp_path: Path) -> None:
    _, model = saved_run(tmp_path)
    larger = load_backbone(str(tmp_path), image_px=24)
    assert larger.image_px == 24
    assert larger.model.pos_embed.shape == (1, 37, 16)
    expected = model.teacher.backbone(images(24))
    torch.testing.assert_close(larger.features(images(24)), expected, rtol=0, atol=1e-5)
    with pytest.raises(EvaluationError, match=r"--image-px=18 .* multiple of 4"):
        load_backbone(str(tmp_path), image_px=18)


def test_positions_decide_the_size_of_a_run_that_ended_at_another_one() -> None:
    larger = build_backbone(
        tiny_trainer(crops={"global_px": 24}), drop_path=0.0, mask_token=False
    ).eval()
    found = plain_vit(tiny_trainer(), larger.vit.state_dict())
    assert (found.image_px, found.arguments["img_size"]) == (24, 24)
    for side in (24, 16):
        torch.testing.assert_close(found.model(images(side)), larger(images(side)))


def test_identity_tells_weights_architecture_and_input_apart(tmp_path: Path) -> None:
    _, model = saved_run(tmp_path)
    loaded = load_backbone(str(tmp_path))
    assert loaded.identity == load_backbone(str(tmp_path)).identity
    others = [load_backbone(f"{tmp_path}:student"), load_backbone(str(tmp_path), image_px=24)]
    weights = {k: v.clone() for k, v in model.teacher.backbone.vit.state_dict().items()}
    same = plain_vit(tiny_trainer(), weights)
    heads = plain_vit(tiny_trainer(backbone_args={**TINY, "num_heads": 4}), weights)
    weights["blocks.1.mlp.fc2.bias"][3] += 1e-3
    nudged = plain_vit(tiny_trainer(), weights)
    assert frozen_vit(same, name="a", origin="").identity == loaded.identity
    identities = [one.identity for one in others]
    identities += [frozen_vit(one, name="b", origin="").identity for one in (heads, nudged)]
    assert len({loaded.identity, *identities}) == 5


@pytest.mark.parametrize("layer", ["SwiGLU", "SwiGLUPacked"])
@pytest.mark.parametrize("more", [{}, {"init_values": 0.1, "reg_tokens": 2}], ids=str)
def test_swiglu_blocks_become_a_model_that_timm_knows_by_name(
    monkeypatch: pytest.MonkeyPatch, layer: str, more: dict[str, Any]
) -> None:
    """YAML cannot name a layer's class: whoever makes arguments of settings puts it there."""
    classes = {"mlp_layer": getattr(timm.layers, layer), "act_layer": nn.SiLU}
    plain = backbone.timm_arguments

    def with_classes(trainer: Any) -> dict[str, Any]:
        return {**plain(trainer), **classes, **more, "mlp_ratio": 16 / 7}

    monkeypatch.setattr(backbone, "timm_arguments", with_classes)
    monkeypatch.setattr(plain_vit_module, "timm_arguments", with_classes)
    own = build_backbone(tiny_trainer(), drop_path=0.0, mask_token=False).eval()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    found = plain_vit(tiny_trainer(), own.vit.state_dict())
    assert found.architecture == ARCHITECTURE
    arguments = json.loads(json.dumps(found.arguments))
    again = timm.create_model(ARCHITECTURE, num_classes=0, **arguments)
    again.load_state_dict(found.model.state_dict())
    for side in (16, 8):
        expected = own(images(side))
        torch.testing.assert_close(again.eval()(images(side)), expected, rtol=0, atol=1e-5)


def write_hub_folder(folder: Path, model: nn.Module, **settings: Any) -> None:
    """As timm writes one for the hub, by hand."""
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": {**TINY, "img_size": 16},
        "pretrained_cfg": {
            "input_size": [3, 16, 16],
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.2, 0.1],
            "num_classes": 0,
            **settings,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_a_folder_of_the_hub_brings_its_own_mean_and_size(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=16, **TINY).eval()
    write_hub_folder(tmp_path / "export", model)
    for name in (f"{tmp_path}/export", f"local-dir:{tmp_path}/export"):
        loaded = load_backbone(name)
        assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
        assert loaded.image_px == 16
        torch.testing.assert_close(loaded.features(images(16)), model(images(16)))
    fresh = load_backbone(f"random:{tmp_path}/export")
    assert fresh.identity != loaded.identity
    assert fresh.feature_dim == 16


def test_a_timm_name_brings_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the loader of hub files replaced: as if they lay in the cache."""
    name = "vit_tiny_patch16_224.augreg_in21k"
    model = timm.create_model("vit_tiny_patch16_224", num_classes=21843).eval()
    asked = []

    def from_cache(hub_id: str, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(hub_id)
        return dict(model.state_dict())

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_cache)
    loaded = load_backbone(name)
    model.reset_classifier(0)
    assert name in str(asked[0])
    assert name in loaded.origin
    assert (loaded.mean, loaded.std, loaded.image_px) == ((0.5,) * 3, (0.5,) * 3, 224)
    torch.testing.assert_close(loaded.features(images(224, 1)), model(images(224, 1)))
    smaller = load_backbone(name, image_px=64)
    assert smaller.features(images(64, 1)).shape == (1, 192)
    assert smaller.patch_tokens(images(64, 1)).shape == (1, 4, 4, 192)
    assert smaller.identity != loaded.identity


def test_weights_out_of_reach_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("cannot reach the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    with pytest.raises(EvaluationError, match=r"cannot reach the hub.*need a connection"):
        load_backbone("vit_tiny_patch16_224")
    with (
        pytest.raises(EvaluationError, match=r"cannot reach the hub"),
        pytest.warns(UserWarning, match="deprecated"),
    ):
        load_backbone("vit_tiny_patch16_224_in21k")  # an old name of timm's
    with pytest.raises(EvaluationError, match=r"no weights .*random:vit_base_patch32_plus_256"):
        load_backbone("vit_base_patch32_plus_256")
    with pytest.raises(EvaluationError, match=r"no weights.*timm has vit_tiny_patch16_224\.augreg"):
        load_backbone("vit_tiny_patch16_224.nobody")


def test_random_weights_follow_their_seed_and_disturb_nothing(tmp_path: Path) -> None:
    saved_run(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    names = [f"random:{tmp_path}", f"random:{tmp_path}@1", "random:resnet10t", "random:resnet10t@7"]
    loaded = {name: load_backbone(name) for name in names}
    assert torch.equal(torch.rand(3), expected)
    assert len({one.identity for one in loaded.values()}) == 4
    assert load_backbone(names[3]).identity == loaded[names[3]].identity
    assert loaded[names[0]].model.pos_embed.shape == (1, 17, 16)
    assert "seed 7" in loaded[names[3]].origin


def test_convolutional_networks_give_features_and_no_tokens() -> None:
    for name, dim in (("random:resnet10t", 512), ("random:mobilenetv3_small_050", 1024)):
        loaded = load_backbone(name, image_px=64)
        assert loaded.features(images(64)).shape == (2, dim) == (2, loaded.feature_dim)
        with pytest.raises(EvaluationError, match="no patch tokens"):
            loaded.patch_tokens(images(64))
    hierarchical = load_backbone("random:swin_tiny_patch4_window7_224")
    with pytest.raises(EvaluationError, match="no patch tokens"):
        hierarchical.patch_tokens(images(224, 1))


def test_tokens_of_models_that_average_are_normed_too() -> None:
    loaded = load_backbone("random:vit_tiny_patch16_224", image_px=32)
    averaging = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, global_pool="avg", class_token=False
    ).eval()
    frozen = freeze(averaging, name="a", origin="", mean=(0,) * 3, std=(1,) * 3, image_px=32)
    tokens = frozen.patch_tokens(images(32))
    torch.testing.assert_close(tokens.std(-1), torch.ones(2, 2, 2), rtol=0.02, atol=0.02)
    with pytest.raises(EvaluationError, match="multiples of 16, not 24 x 24"):
        loaded.patch_tokens(images(24))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_225", r"neither a folder .* did you mean .*vit_tiny_patch16_224"),
        ("runs/nowhere", "there is no folder runs/nowhere"),
        ("runs/nowhere:student", "there is no folder runs/nowhere;"),
        ("random:nothing_of_the_sort", "neither a folder"),
        ("random:resnet10t@x", "x is no seed"),
        ("synclr:nowhere.pth", "no such file"),
        ("EMPTY", "no run .* no export"),
        ("random:EMPTY", "no run .* no export"),
        ("RUN:nobody", "there is no folder"),
        ("CONFIG", "no complete checkpoint yet"),
        ("DAMAGED", "step_00000003 is damaged"),
        ("CUT", "is not a complete checkpoint"),
        ("EXPORT:student", "leave :student out"),
        ("EXPORT", r"cannot be loaded .*nobody_knows"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, name: str, said: str) -> None:
    for folder in ("EMPTY", "CONFIG", "EXPORT"):
        (tmp_path / folder).mkdir()
    (tmp_path / "CONFIG" / "config.yaml").write_text("{}")
    (tmp_path / "EXPORT" / "config.json").write_text(
        '{"architecture": "nobody_knows", "pretrained_cfg": {}}'
    )
    for folder in ("RUN", "DAMAGED", "CUT"):
        if folder in name:
            saved_run(tmp_path / folder)
    file = tmp_path / "DAMAGED" / "checkpoints" / f"step_{STEP:08d}" / "checkpoint.pt"
    if file.exists():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    cut = tmp_path / "CUT" / "checkpoints" / f"step_{STEP:08d}"
    if cut.exists():
        file = cut / "checkpoint.pt"
        file.write_bytes(file.read_bytes()[:-30])
        name = f"CUT/checkpoints/{cut.name}"
    upper = name.removeprefix("random:")[:2].isupper()
    place = name.replace("random:", f"random:{tmp_path}/", 1) if "random:" in name else None
    with pytest.raises(EvaluationError, match=said) as caught:
        load_backbone((place or f"{tmp_path}/{name}") if upper else name)
    assert "\n" not in str(caught.value)
