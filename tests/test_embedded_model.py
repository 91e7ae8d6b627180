"""The shipped embedded image model: a plain diffusers folder that renders groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch

from online_synclr.paths import CONFIGS_DIR
from online_synclr.paths import EMBEDDED_IMAGE_MODEL_DIR as FOLDER
from recipes.embedded_image_model import card
from recipes.embedded_image_model.config import load


@pytest.fixture(scope="module")
def pipeline():
    """The folder, loaded the way anyone would."""
    torch.set_num_threads(1)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def _render(pipeline, captions: list[str], seeds: list[int]) -> torch.Tensor:
    figures = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(
        captions, num_inference_steps=figures["steps"], guidance_scale=figures["guidance"],
        generator=noise, output_type="pt",
    ).images  # fmt: skip


def test_folder_is_small_and_holds_no_code() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    assert not [file for file in files if file.suffix in {".py", ".bin", ".pt", ".pkl"}]


def test_a_group_of_different_images(pipeline) -> None:
    images = _render(pipeline, ["a red apple on a blue background"] * 4, [1, 2, 3, 4])
    assert images.shape == (4, 3, 64, 64)
    rmse = torch.pdist(images.flatten(1).float()) / images[0].numel() ** 0.5
    assert rmse.min() > 0.05


def test_the_caption_decides(pipeline) -> None:
    texts = ["a plain lemon on a red background", "a plain lemon on a blue background"]
    red, blue = _render(pipeline, texts, [5, 5]).float().mean(dim=(2, 3))
    assert red[0] > red[2]
    assert blue[2] > red[2]


def test_an_image_depends_on_its_own_seed(pipeline) -> None:
    first = _render(pipeline, ["a cat", "a cat"], [7, 8])
    again = _render(pipeline, ["a cat", "a cat"], [9, 8])
    assert torch.allclose(first[1], again[1], atol=1e-3)
    assert not torch.allclose(first[0], again[0], atol=1e-2)


def test_words_are_read_by_the_shipped_tokenizer(pipeline) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer("a fox in the grass").input_ids
    assert len(ids) == 7
    assert tokenizer.decode(ids[1:-1]).strip() == "a fox in the grass"


def test_unknown_words_do_no_harm(pipeline) -> None:
    """A word without meaning moves a picture less than another noise does, or another thing."""
    plain, odd, other = _render(
        pipeline,
        ["a red apple on a blue background", "a red qzwyx apple on a blue background",
         "a guitar on a blue background"],
        [5, 5, 5],
    ).float()  # fmt: skip
    again = _render(pipeline, ["a red apple on a blue background"], [6]).float()[0]
    by_word, by_noise, by_thing = ((plain - x).square().mean() for x in (odd, again, other))
    assert by_word < 0.5 * by_noise
    assert by_word < 0.5 * by_thing


def test_figures_hold_what_the_card_says() -> None:
    figures = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind in ("concept_top1", "background_top1"):
        assert f"{figures[kind]['generated']:.3f}; real" in text
        assert figures[kind]["ratio"] >= 0.85
    for licence in ("MIT", "Apache-2.0", "CC-BY-4.0"):
        assert licence in text


def test_the_bank_offers_what_was_judged() -> None:
    figures = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    bank = (CONFIGS_DIR / "concepts/embedded.tsv").read_text(encoding="utf-8")
    names = {line.split("\t")[0] for line in bank.splitlines() if not line.startswith("#")}
    assert figures["concepts"] == len(names)


def test_card_and_report_are_what_the_recipe_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = CONFIGS_DIR.parent
    monkeypatch.chdir(root)
    config = load(root / "recipes/embedded_image_model/config.yaml")
    assert (FOLDER / "README.md").read_text("utf-8") == card.model_card(config)
    assert (root / config.report).read_text("utf-8") == card.document(config)
    about_others = tmp_path / "notes.md"
    about_others.write_text("Made long ago.")
    assert "long ago" not in card.document(replace(config, notes=str(about_others)))
    assert "is about other weights" in capsys.readouterr().out
