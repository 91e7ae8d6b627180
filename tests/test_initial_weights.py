"""`trainer.init_from`: exports, checkpoints, what is taken and what is refused.

With several trainers: tests/test_sharding.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from online_synclr.config import Config, ConfigError
from tests.test_checkpoint import make_config, make_intake, save
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, tiny_step, weights
from trainer.distributed import Trainers
from trainer.initial_weights import VIT, initialise

ARGS = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def export(folder: Path, **arguments: Any) -> dict[str, torch.Tensor]:
    """A folder as timm writes it; its weights."""
    settings: dict[str, Any] = {**ARGS, "img_size": 32, **arguments}
    vit = timm.create_model("vit_tiny_patch16_224", **settings, num_classes=7)
    torch.manual_seed(5)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir(exist_ok=True)
    state = {name: value.contiguous() for name, value in vit.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    side = settings["img_size"]
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": settings,
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 7,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return vit.state_dict()


def initialised(config: Config, trainers: Trainers = ALONE) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    step = tiny_step(config, trainers)
    initialise(step.model, config, trainers, said.append)
    return weights(step), said


@pytest.mark.parametrize("form", ["local-dir:{}", "{}"])
def test_an_exports_backbone_is_taken_and_nothing_else(tmp_path: Path, form: str) -> None:
    source = export(tmp_path / "export")
    config = tiny_config(init_from=form.format(tmp_path / "export"))
    got, said = initialised(config)
    fresh = weights(tiny_step(config))
    for network in ("student", "teacher"):
        name = f"{network}.{VIT}"
        assert torch.equal(got[f"{name}blocks.1.mlp.fc1.weight"], source["blocks.1.mlp.fc1.weight"])
        assert torch.equal(got[f"{name}pos_embed"][:, :1], source["pos_embed"][:, :1])
        assert got[f"{name}pos_embed"].shape == (1, 17, 16)
    others = [name for name in fresh if VIT not in name]
    assert "student.projector.0.weight" in others
    assert all(torch.equal(got[name], fresh[name]) for name in others)
    (line,) = said
    assert "positions resampled from 8 x 8 to 4 x 4 patches" in line


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_checkpoint_gives_its_teacher_unless_asked_for_the_student(
    tmp_path: Path, network: str
) -> None:
    run = make_config(tmp_path / "run", crops={"global_px": 24, "local_px": 8})
    step = tiny_step(run)
    with torch.no_grad():
        for parameter in step.model.student.parameters():
            parameter.add_(1.0)
    save(tmp_path / "run", run, 2, step, make_intake(run))
    name = str(tmp_path / "run") + (":student" if network == "student" else "")
    got, (line,) = initialised(tiny_config(init_from=name))
    expected = weights(step)[f"{network}.{VIT}blocks.0.attn.qkv.weight"]
    for into in ("student", "teacher"):
        assert torch.equal(got[f"{into}.{VIT}blocks.0.attn.qkv.weight"], expected)
    assert "from 6 x 6 to 4 x 4" in line
    again, _ = initialised(tiny_config(init_from=f"{tmp_path}/run/checkpoints/step_00000002"))
    assert (network == "teacher") == torch.equal(
        again[f"student.{VIT}norm.weight"], got[f"student.{VIT}norm.weight"]
    )


def test_pretrained_is_short_for_the_models_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    create = timm.create_model

    def creating(name: str, **arguments: Any) -> Any:
        if arguments.pop("pretrained", False):
            asked.append(name)
            return create(name, **ARGS, img_size=16, **arguments)
        return create(name, **arguments)

    config = tiny_config(pretrained=True)
    step = tiny_step(config)
    monkeypatch.setattr(sys.modules["trainer.initial_weights"].timm, "create_model", creating)
    initialise(step.model, config, ALONE, lambda text: None)
    assert asked == [config.trainer.backbone]


def test_without_a_source_nothing_is_read() -> None:
    got, said = initialised(tiny_config())
    assert said == []
    assert all(torch.equal(got[n], value) for n, value in weights(tiny_step(tiny_config())).items())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_colossal", "neither a folder nor a timm model that has weights"),
        ("local-dir:/no/such", "there is no config.json in /no/such"),
        ("{}", "a folder without a checkpoint"),
        ("{}/export", r"does not fit trainer\.backbone=vit_tiny_patch16_224: .*norm_pre"),
        ("{}/broken", "cannot be read"),
    ],
)
def test_what_cannot_be_taken_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    export(tmp_path / "export", pre_norm=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "checkpoint.pt").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=words) as caught:
        initialised(tiny_config(init_from=name.format(tmp_path)))
    assert "\n" not in str(caught.value)
    assert "trainer.init_from=" in str(caught.value)
