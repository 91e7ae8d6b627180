"""The model card: its figures are the run's, its table the results', and no machine shows."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from huggingface_hub import ModelCard

from evaluation.export.export import Export, export
from evaluation.export.model_card import NO_LICENCE, CardFacts, model_card
from evaluation.export.models_used import UNKNOWN, models_used
from evaluation.export.recipe import recipe_rows, seen_until
from evaluation.export.results_table import read_results, short_name
from evaluation.sources.checkpoint import find_checkpoint, read_checkpoint
from online_synclr.config import Config, load_config
from online_synclr.monitor.summary import Summary
from online_synclr.paths import CONFIGS_DIR
from tests.saved_run import STEP, saved_run

SUMMARY = Summary(
    steps=STEP,
    groups_sent=17,
    groups_received=14,
    groups_trained=6,
    group_uses=6,
    groups_lost=3,
    groups_discarded=0,
    groups_evicted_unused=0,
    groups_left=8,
    distinct_captions=6,
    images_rendered=40,
    trainer_images_per_s=1.0,
    trainer_image_uses_per_s=1.0,
    generator_images_per_s=1.0,
    trainer_wait_fraction=0.0,
    generator_wait_fraction=0.0,
    time_to_first_step_s=1.0,
    wall_s=5400.0,
    generator_models={"g0": "vllm:0123 diffusers:4567", "g1": "ledger:/secret/run x"},
)


def card_of(tmp_path: Path, **asked: Any) -> str:
    run, out = tmp_path / "my_run", tmp_path / "out"
    if not run.exists():
        saved_run(run)
    export(Export(source=run, out=out, force=True, **asked))
    return (out / "README.md").read_text()


def write_results(file: Path, *results: dict[str, Any]) -> Path:
    versions = {"versions": {"torch": "2"}, "command": "evaluate ..."}
    file.write_text(json.dumps([one | versions for one in results]))
    return file


def test_figures_are_the_checkpoints_own(tmp_path: Path) -> None:
    text = card_of(tmp_path)
    checkpoint = read_checkpoint(find_checkpoint(tmp_path / "my_run"))
    seen = seen_until(checkpoint)
    assert seen is not None
    assert (seen.groups, seen.group_uses) == (6, 6)
    assert "| groups | 6 of 2 images |" in text
    assert "| images | 12; with reuse 12 |" in text
    assert f"| steps | {STEP} |" in text
    assert "hours" not in text
    assert "None was given" in text
    assert "No licence was chosen" in text
    assert "No photograph" in text


def test_a_summary_is_read_if_it_is_of_this_checkpoint(tmp_path: Path) -> None:
    saved_run(tmp_path / "my_run")
    file = tmp_path / "my_run" / "summary.json"
    SUMMARY.write(file)
    text = card_of(tmp_path)
    assert "| time | 1.50 hours, 1 starts |" in text
    assert "`vllm:0123 diffusers:4567`" in text
    assert "secret" not in text
    replace(SUMMARY, steps=STEP + 1).write(file)
    assert "hours" not in card_of(tmp_path)
    file.write_text("{}")
    assert "hours" not in card_of(tmp_path)


def test_results_become_a_table_and_metadata(tmp_path: Path) -> None:
    run = tmp_path / "my_run"
    saved_run(run)
    common = {"task": "knn", "data": "check_set", "details": {}}
    file = write_results(
        tmp_path / "results.json",
        {"backbone": str(run), "metrics": {"accuracy_k10": 0.8125, "accuracy_k20": 0.75}, **common},
        {"backbone": f"{run}:student", "metrics": {"accuracy_k10": 0.5}, **common},
        {"backbone": f"random:{run}", "metrics": {"accuracy_k10": 0.25}, **common},
        {
            "backbone": f"{run}:teacher",
            "task": "segmentation",
            "data": "/data/of/mine/ade20k",
            "metrics": {"miou": 0.1},
        },
    )
    text = card_of(tmp_path, results=[file], licence="apache-2.0")
    assert "| **my_run** | knn | check_set | accuracy_k10 0.812, accuracy_k20 0.750 |" in text
    assert "| my_run:student | knn | check_set | accuracy_k10 0.500 |" in text
    assert "| random:my_run | knn | check_set | accuracy_k10 0.250 |" in text
    assert "| **my_run:teacher** | segmentation | ade20k | miou 0.100 |" in text
    assert str(tmp_path) not in text
    assert "/data" not in text
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.model_name == "my_run-teacher"
    assert [
        (one.task_type, one.dataset_type, one.metric_type, one.metric_value)
        for one in (card.data.eval_results or [])
    ] == [
        ("image-classification", "check-set", "accuracy-k10", 0.8125),
        ("image-classification", "check-set", "accuracy-k20", 0.75),
        ("image-segmentation", "ade20k", "miou", 0.1),
    ]
    students = card_of(tmp_path, results=[file], network="student")
    assert "| **my_run:student** | knn" in students
    assert "| my_run | knn" in students


def test_results_of_others_are_no_metadata(tmp_path: Path) -> None:
    one = {"backbone": "resnet50", "task": "knn", "data": "d", "metrics": {"a": 1.0}}
    text = card_of(tmp_path, results=[write_results(tmp_path / "r.json", one)])
    assert "No row is of this very model" in text
    assert "model-index" not in yaml.safe_load(text.split("---")[1])
    assert NO_LICENCE in text


def test_written_results_are_read(tmp_path: Path) -> None:
    """As `evaluate` writes them: `Result` as JSON, whatever else stands beside."""
    [read] = read_results(
        [
            write_results(
                tmp_path / "r.json",
                {
                    "backbone": "a",
                    "task": "b",
                    "data": "c",
                    "metrics": {"m": 1},
                    "details": {"k": [1, {"x": None}]},
                },
            )
        ]
    )
    assert read.details == {"k": [1, {"x": None}]}
    assert msgspec.convert(asdict(read), type(read)) == read


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/home/me/runs/demo", "demo"),
        ("runs/demo:student", "demo:student"),
        ("random:/home/me/demo", "random:demo"),
        ("synclr:/w/synclr_vit_b_16.pth", "synclr:synclr_vit_b_16.pth"),
        ("vit_base_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2.lvd142m"),
        ("hf-hub:timm/resnet10t", "hf-hub:timm/resnet10t"),
        ("hf:/home/me/data", "hf:data"),
        ("torchvision:Food101:/data/food", "torchvision:Food101:food"),
    ],
)
def test_names_lose_the_folders_of_a_machine(name: str, short: str) -> None:
    assert short_name(name) == short


def test_models_and_what_is_known_of_their_licences(tmp_path: Path) -> None:
    local = tmp_path / "finetuned"
    local.mkdir()
    config = Config.model_validate(
        {
            "captions": {"model": str(local)},
            "images": {"model": "stabilityai/sdxl-turbo", "lora": "who/knows"},
        }
    )
    used = {model.part: model for model in models_used(config)}
    assert used["captions"].name == "a local folder, finetuned"
    assert used["captions"].licence == used["images, LoRA"].licence == UNKNOWN
    assert "Stability AI" in used["images"].licence
    assert used["images"].hub_id == "stabilityai/sdxl-turbo"
    assert used["captions"].hub_id is None


def test_models_of_the_shipped_configurations_are_named() -> None:
    for file in sorted(CONFIGS_DIR.glob("*.yaml")):
        config = load_config(file)
        names = [model.name for model in models_used(config)]
        assert any("Online SynCLR" in name or "/" in name for name in names), file
        recipe = dict(recipe_rows(config))
        assert config.trainer.backbone in recipe["backbone"]


def test_stand_ins_and_foreign_weights_are_said(tmp_path: Path) -> None:
    run = tmp_path / "my_run"
    saved_run(run)
    checkpoint = read_checkpoint(find_checkpoint(run))
    settings = checkpoint.config.model_dump(mode="json")
    settings["images"]["backend"] = "synthetic"
    settings["trainer"]["pretrained"] = True
    facts = CardFacts(
        title="x",
        checkpoint=replace(checkpoint, config=Config.model_validate(settings)),
        network="teacher",
        vit=checkpoint.vit("teacher"),
        results=[],
        own=[],
        licence=NO_LICENCE,
        onnx=False,
    )
    text = model_card(facts)
    assert "stand-ins for tests (images.backend=synthetic)" in text
    assert "| starts from | timm's weights of vit_tiny_patch16_224 |" in text
    assert "No photograph" not in text
