"""The picture study: what is kept, what is made again, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers")

from online_synclr.config import load_config
from online_synclr.stream.group import Group
from recipes.picture_study import learn, pictures, report, things
from recipes.picture_study.captions import Asked
from trainer.evaluation.image_folder import LabelledImages
from trainer.objective.model import build_model

STUDY = Path(__file__).parents[1] / "recipes/picture_study/study.yaml"
ASKED = [Asked(f"a fox number {i}", "fox", "concept", "", "", i) for i in range(4)]


def _groups(maker: str, value: int) -> list[Group]:
    """Four groups of four noisy 64 px images around a grey value."""
    random = np.random.default_rng(value)
    return [
        Group(
            pictures.recipe_of(one, seed=0, images=4, maker=maker),
            random.integers(value, value + 50, (4, 3, 64, 64), dtype=np.uint8),
        )
        for one in ASKED
    ]


def test_pictures_are_kept_until_their_maker_or_captions_change(tmp_path: Path) -> None:
    path = tmp_path / "groups.npz"

    def kept(maker: str, value: int, asked: list[Asked]) -> int:
        made = pictures.kept(path, lambda: _groups(maker, value), asked, seed=0, maker=maker)
        assert [group.recipe.image_fingerprint for group in made] == [maker] * len(made)
        return int(made[0].images_mchw.min())

    assert kept("one", 100, ASKED) >= 100
    assert kept("one", 10, ASKED) >= 100
    assert kept("two", 10, ASKED) < 100
    others = [Asked(f"{one.caption}!", *list(vars(one).values())[1:]) for one in ASKED]
    assert kept("two", 150, others) >= 150


def test_a_result_is_taken_again_only_for_the_same_settings(tmp_path: Path) -> None:
    small = [
        "trainer.batch_groups=2", "trainer.backbone_args.depth=1", "monitor.knn_every_steps=2",
        "trainer.contrastive.projector_hidden=16", "trainer.contrastive.predictor_hidden=16",
        "trainer.mim.prototypes=16", "trainer.mim.hidden=16", f"run.dir={tmp_path}",
        "trainer.optimizer.warmup_steps=1", "trainer.mim.teacher_warmup_steps=1",
    ]  # fmt: skip
    config = load_config(STUDY, [*small, "trainer.steps=2"])
    out = tmp_path / "this-0.json"
    first = learn.run(config, _groups("one", 100), out, "test")
    assert [step for step, _ in first["curve"]] == [0, 2]  # type: ignore[attr-defined]
    assert first["reuse"] == 1.0
    again = learn.run(config, _groups("one", 100), out, "test")
    assert again["key"] == first["key"]
    out.write_text(out.read_text().replace('"steps": 2', '"steps": 3'))
    assert learn.run(config, _groups("one", 100), out, "test")["steps"] == 3, "trained again"
    out.with_suffix(".safetensors").unlink()
    assert learn.run(config, _groups("one", 100), out, "test")["steps"] == 2, "no weights"
    longer = load_config(STUDY, [*small, "trainer.steps=4"])
    assert learn.run(longer, _groups("one", 100), out, "test")["steps"] == 4


def test_things_are_told_apart_by_weights_that_can(tmp_path: Path) -> None:
    config = load_config(STUDY, ["trainer.backbone_args.depth=1"])
    random = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 255, (4, 3, 64, 64), generator=random, dtype=torch.uint8)
    labels = torch.arange(4).repeat(6)
    images = LabelledImages(kinds[labels], labels, ("a", "b", "c", "d"))
    assert things.accuracy(config, None, images) == 1.0
    weights = build_model(config.trainer, run_seed=0).teacher.backbone.state_dict()
    blind = {name: torch.zeros_like(value) for name, value in weights.items()}
    assert things.accuracy(config, blind, images) < 0.5
    out = tmp_path / "this-0.json"
    out.write_text("{}")
    save_file(blind, out.with_suffix(".safetensors"))
    things.add(config, out, images)
    before, after = json.loads(out.read_text())["things"]
    assert before == 1.0
    assert after < 0.5
    pixels = json.loads(out.read_text())["raw_pixels"]
    assert pixels["things"] == 1.0
    assert 0.2 < pixels["check set"] < 0.5
    out.write_text(out.read_text().replace("1.0", "0.7"))
    things.add(config, out, images)
    assert json.loads(out.read_text())["things"][0] == 0.7, "measured again"
    others = LabelledImages(kinds[labels], labels.flip(0), images.names)
    things.add(config, out, others)
    assert json.loads(out.read_text())["things"][0] == 1.0, "figures of other images were kept"


def _write_runs(folder: Path, ends: dict[str, float], groups: int = 8) -> None:
    for arm, end in ends.items():
        run = {
            "curve": [[0, 0.18], [2, end]], "steps": 2, "groups": groups, "images": 4 * groups,
            "reuse": 2.0, "things": [0.05, 0.05 + 2 * (end - 0.18)],
            "raw_pixels": {"check set": 0.333, "things": 0.285},
        }  # fmt: skip
        (folder / f"{arm}-0.json").write_text(json.dumps(run))


def test_the_report_says_what_share_of_the_ceiling_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    _write_runs(tmp_path, {"first": 0.20, "this": 0.27, "real": 0.28})
    report.write(tmp_path, [0], ["first", "this", "real"], tmp_path / "docs")
    text = (tmp_path / "docs/picture-study.md").read_text()
    assert text.count("this version 0.90") == 2
    assert "Check set: of the ceiling's mean gain over random weights, 10.0 points" in text
    assert "compositions: of the ceiling's mean gain over random weights, 20.0 points" in text
    assert "first version of the image model 0.20" in text
    assert "| none: raw pixels at 16 x 16 | 0 | 0 | 0 | 33.3 | | 28.5 |" in text


def test_runs_of_different_length_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    _write_runs(tmp_path, {"this": 0.27})
    _write_runs(tmp_path, {"real": 0.28}, groups=9)
    with pytest.raises(ValueError, match="cannot be compared"):
        report.write(tmp_path, [0], ["this", "real"], tmp_path / "docs")
