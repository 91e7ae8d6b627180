"""An export: loads where this project is not, computes what was trained, is there whole or not."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

from evaluation.errors import EvaluationError
from evaluation.export import export as export_module
from evaluation.export import onnx_file
from evaluation.export.export import Export, export
from evaluation.export.folder import written_whole
from evaluation.load import load_backbone
from online_synclr.__main__ import main
from tests.saved_run import STEP, saved_run
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.model import SynCLRModel

BLOCKS = {
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "init_values": 0.1,
    "reg_tokens": 3,
    "no_embed_class": True,
    "weight_init": "jax",
}
SIDES = (16, 8, 24)

OUTSIDE = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"online_synclr", "trainer", "generators", "evaluation"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nowhere())
for project in ("online_synclr", "trainer", "evaluation"):
    try:
        __import__(project)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{project} can be imported here")

import numpy as np
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

folder, inputs, outputs = sys.argv[1:]
images = {side: torch.from_numpy(one) for side, one in np.load(inputs).items()}
plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
wrapped = AutoModel.from_pretrained(folder).eval()
picture = Image.fromarray(np.full((40, 60, 3), 128, np.uint8))
found = {"pixels": AutoImageProcessor.from_pretrained(folder)(picture).pixel_values.numpy()}
with torch.inference_mode():
    for side, one in images.items():
        found[f"timm {side}"] = plain(one).numpy()
        outcome = wrapped(one)
        found[f"transformers {side}"] = outcome.pooler_output.numpy()
        found[f"tokens {side}"] = outcome.last_hidden_state.numpy()
assert type(wrapped).__name__ == "TimmWrapperModel", type(wrapped)
assert not any(name.startswith(("online_synclr", "trainer")) for name in sys.modules)
np.savez(outputs, **found)
"""


def images(side: int) -> torch.Tensor:
    return torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(side))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynCLRModel]:
    folder = tmp_path_factory.mktemp("export") / "run"
    _, model = saved_run(folder, backbone_args=BLOCKS)
    export(Export(source=folder, out=folder.parent / "out"))
    return folder, model


def test_timm_and_transformers_load_it_where_this_project_is_not(
    run: tuple[Path, SynCLRModel], tmp_path: Path
) -> None:
    folder, model = run
    script, inputs, outputs = (tmp_path / name for name in ("load.py", "in.npz", "out.npz"))
    script.write_text(OUTSIDE)
    np.savez(inputs, **{str(side): images(side).numpy() for side in SIDES})
    done = subprocess.run(
        [sys.executable, "-I", script, folder.parent / "out", inputs, outputs],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(outputs)
    own = model.teacher.backbone
    for side in SIDES:
        with torch.inference_mode():
            features, patches = (one.numpy() for one in own.forward_tokens(images(side)))
        assert np.abs(found[f"timm {side}"] - features).max() < 1e-5
        assert np.abs(found[f"transformers {side}"] - features).max() < 1e-5
        assert np.abs(found[f"tokens {side}"][:, 4:] - patches).max() < 1e-5
    grey = (128 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    expected = np.broadcast_to(grey[None, :, None, None], (1, 3, 16, 16))
    np.testing.assert_allclose(found["pixels"], expected, atol=1e-5)


def test_it_can_be_made_for_other_sizes_and_with_a_classifier(
    run: tuple[Path, SynCLRModel],
) -> None:
    folder, model = run
    name = f"local-dir:{folder.parent / 'out'}"
    larger = timm.create_model(name, pretrained=True, img_size=24, num_classes=5).eval()
    assert larger.pos_embed.shape[1] == 36
    with torch.inference_mode():
        expected = model.teacher.backbone(images(24))
        pooled = larger.forward_head(larger.forward_features(images(24)), pre_logits=True)
        assert larger(images(24)).shape == (2, 5)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


def test_a_run_and_its_export_are_one_backbone_to_every_cache(
    run: tuple[Path, SynCLRModel],
) -> None:
    folder, _ = run
    exported, trained = load_backbone(str(folder.parent / "out")), load_backbone(str(folder))
    assert exported.identity == trained.identity
    assert exported.image_px == trained.image_px == 16
    assert (exported.mean, exported.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_files_are_as_the_hub_wants_them(run: tuple[Path, SynCLRModel]) -> None:
    out = run[0].parent / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o400 for path in out.iterdir()} == {0o400}
    assert len({stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}) == 1
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert not [name for name in file.keys() if "mask" in name]  # noqa: SIM118
    arguments = json.loads((out / "config.json").read_text())["model_args"]
    assert "weight_init" not in arguments
    assert arguments["reg_tokens"] == 3


def test_student_and_older_checkpoints_are_there_for_the_asking(tmp_path: Path) -> None:
    runs, models = tmp_path / "run", {}
    for step in (2, 9):
        _, models[step] = saved_run(runs, step=step)
    asked: list[tuple[list[str], Any]] = [
        ([f"{runs}"], models[9].teacher),
        ([f"{runs}", "--student"], models[9].student),
        ([f"{runs}:student", "--checkpoint", "2"], models[2].student),
        ([f"{runs}/checkpoints/step_00000002"], models[2].teacher),
    ]
    for number, (words, network) in enumerate(asked):
        assert main(["export", *words, "--out", str(tmp_path / str(number))]) == 0
        exported = timm.create_model(f"local-dir:{tmp_path / str(number)}", pretrained=True).eval()
        expected = network.backbone.eval()(images(16))
        torch.testing.assert_close(exported(images(16)), expected, rtol=0, atol=1e-5)


def test_what_is_there_stays_unless_it_is_an_export_and_force_is_given(tmp_path: Path) -> None:
    saved_run(tmp_path / "run", step=2)
    out = tmp_path / "out"
    export(Export(source=tmp_path / "run", out=out))
    before = (out / "model.safetensors").read_bytes()
    saved_run(tmp_path / "run", step=5)
    with pytest.raises(EvaluationError, match=r"is there already.*--force"):
        export(Export(source=tmp_path / "run", out=out))
    assert (out / "model.safetensors").read_bytes() == before
    export(Export(source=tmp_path / "run", out=out, force=True))
    assert (out / "model.safetensors").read_bytes() != before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(EvaluationError, match="something else than an export"):
        export(Export(source=tmp_path / "run", out=mine, force=True))
    with pytest.raises(EvaluationError, match="not a folder"):
        export(Export(source=tmp_path / "run", out=mine / "thesis.txt", force=True))
    assert (mine / "thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "mine"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_everything_as_it_was(
    tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("config.json", "README.md"):
        (out / name).write_text("before")

    def fail() -> None:
        with written_whole(out, force=True) as folder:
            (folder / "config.json").write_text("after")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "config.json").read_text() == "before"


def test_other_features_than_the_trained_ones_are_never_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit of one weight, at sizes where it tells."""
    saved_run(tmp_path / "run")
    plain = export_module.write_timm

    def nudged(vit: Any, folder: Path) -> None:
        with torch.no_grad():
            vit.model.blocks[1].mlp.fc2.bias[0] += 1e-5
        plain(vit, folder)

    monkeypatch.setattr(export_module, "write_timm", nudged)
    with pytest.raises(EvaluationError, match="other features than the trained one"):
        export(Export(source=tmp_path / "run", out=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_onnx_runtime_computes_the_same_for_any_batch(
    tmp_path: Path, run: tuple[Path, SynCLRModel]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    folder, model = run
    assert main(["export", str(folder), "--out", f"{tmp_path}/out", "--format", "onnx"]) == 0
    session = runtime.InferenceSession(
        tmp_path / "out" / onnx_file.FILE_NAME, providers=["CPUExecutionProvider"]
    )
    assert sorted(path.name for path in (tmp_path / "out" / "onnx").iterdir()) == ["model.onnx"]
    for num in (1, 5):
        batch = images(16).repeat(3, 1, 1, 1)[:num]
        (found,) = session.run(None, {onnx_file.INPUT: batch.numpy()})
        expected = model.teacher.backbone(batch).numpy()
        assert np.abs(found - expected).max() < 1e-4
    assert "onnx/model.onnx" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/nowhere", "--out", "{}/x"], "nowhere is no run's folder"),
        (["{}/run", "--out", "{}/x", "--checkpoint", "7"], "no checkpoint of step 7; it has 3"),
        (["{}/run", "--out", "{}/x", "--checkpoint", "-1"], "give a step"),
        (["{}/run:teacher", "--out", "{}/x", "--student"], "contradict each other"),
        (["{}/run"], "--out"),
        (["{}/run", "--out", "{}/x", "--format", "coreml"], "coreml"),
        (["{}/run", "--out", "{}/x", "--results", "{}/none.json"], "none.json cannot be read"),
        (["{}/run", "--out", "{}/x", "--results", "{}/wrong.json"], "holds no results"),
        (["{}/run", "--out", "{}/run"], "something else than an export"),
        (["{}/run", "--out", "{}/x", "--format", "onnx"], "needs onnxruntime, which is not"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "onnxruntime" else find(name, *more),
    )
    step = tmp_path / "run" / "checkpoints" / f"step_{STEP:08d}"
    step.mkdir(parents=True)
    (step / "checkpoint.pt").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "wrong.json").write_text('[{"task": "knn"}]')
    assert main(["export", *(word.format(tmp_path) for word in words)]) == 2
    printed = capsys.readouterr().err.strip()
    assert said in printed
    assert "\n" not in printed
    assert {path.name for path in tmp_path.iterdir()} == {"run", "wrong.json"}
