"""Converted models appear whole, are built once, and a failed build leaves nothing."""

import threading
from pathlib import Path

import pytest

from generators.cache import build_once
from generators.fingerprint import fingerprint, model_identity
from online_synclr.paths import cache_folder


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ONLINE_SYNCLR_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "online_synclr"
    monkeypatch.setenv("ONLINE_SYNCLR_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_of_several_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    building, finish = threading.Event(), threading.Event()
    builds: list[Path] = []

    def build(unfinished: Path) -> None:
        builds.append(unfinished)
        building.set()
        assert finish.wait(10)
        (unfinished / "weights").write_text("all")

    threads = [threading.Thread(target=build_once, args=(folder, build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert building.wait(10)
    assert not folder.exists()
    finish.set()
    for thread in threads:
        thread.join(10)
    assert len(builds) == 1
    assert (folder / "weights").read_text() == "all"
    assert build_once(folder, build) == folder
    assert {path.name for path in folder.parent.iterdir()} == {"model", "model.lock"}


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def build(unfinished: Path) -> None:
        (unfinished / "half").write_text("x")
        raise OSError("disk full")

    (tmp_path / "model.1.unfinished").mkdir()
    with pytest.raises(OSError, match="disk full"):
        build_once(folder, build)
    assert {path.name for path in tmp_path.iterdir()} == {"model.lock"}


def test_a_models_identity_follows_its_files(tmp_path: Path) -> None:
    weights = tmp_path / "unet" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(3 * 2**20))
    before = model_identity(str(tmp_path))
    assert model_identity(str(tmp_path)) == before
    weights.write_bytes(bytes(3 * 2**20 - 1) + b"x")
    assert model_identity(str(tmp_path)) != before
    assert model_identity("someone/unheard-of", "v1") == "someone/unheard-of@v1"
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_what_a_pipeline_does_not_load_is_no_part_of_its_identity(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "P", "unet": ["diffusers", "U"], "vae": [null, null]}')
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    before = model_identity(str(tmp_path))
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "LICENSES" / "MIT.txt").write_text("free of charge")
    (tmp_path / "evaluation.json").write_text("{}")
    assert model_identity(str(tmp_path)) == before
    (tmp_path / "unet" / "config.json").write_text('{"a": 1}')
    changed = model_identity(str(tmp_path))
    assert changed != before
    index.write_text('{"_class_name": "Q", "unet": ["diffusers", "U"], "vae": [null, null]}')
    assert model_identity(str(tmp_path)) != changed
