"""`python -m online_synclr plan`: given and measured rates, wrong input, real measurements."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from online_synclr.__main__ import main
from online_synclr.config import load_config, resolved_yaml
from online_synclr.monitor import metrics
from online_synclr.paths import CONFIGS_DIR
from online_synclr.planning.measurement import MeasurementError, MeasureSpec, TrainerAnswer
from online_synclr.planning.measuring import Bench
from online_synclr.topology import Split
from tests.torchrun import SYNTHETIC

GIVEN = ("--generator-groups-per-s", "2", "--trainer-images-per-s", "400")
TINY = (
    *SYNTHETIC,
    "run.device=cpu",
    "images.render_px=32",
    "images.send_px=32",
    "images.batch_groups=2",
    "trainer.crops={global_px: 32, local_px: 16}",
)


def plan_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", "--json", *arguments]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_given_rates_need_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    figures = plan_json(capsys, "--gpus", "8", *GIVEN, "pool.samples_per_insert=2")
    # 12 groups x 4 images at 400 images/s: 8.33 steps/s; 7 generators feed 7 * 2 * 2 / 12.
    first = figures["splits"][0]
    assert first["name"] == "7+1"
    assert first["balance"]["steps_per_s"] == pytest.approx(7 * 2 * 2 / 12)
    assert first["balance"]["trainer_wait"] == pytest.approx(1 - 7 * 2 * 2 / 12 / (400 / 48))
    assert first["days"] == pytest.approx(140 / (7 * 2 * 2 / 12) / 86400)
    assert figures["best"] == "7+1"
    assert list(figures["refused"]) == ["3+5", "1+7"]


def test_the_command_line_it_prints_runs_what_was_planned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ("trainer.steps=7", "topology.generators=1", "run.dir=runs/my run")
    config = str(CONFIGS_DIR / "demo.yaml")
    assert main(["plan", "--ranks", "3", "--config", config, *GIVEN, *settings]) == 0
    command = capsys.readouterr().out.splitlines()[-1].strip()
    assert command == (
        f"torchrun --nproc_per_node=3 -m online_synclr --config {config} trainer.steps=7 "
        "'run.dir=runs/my run' topology.generators=2 topology.trainers=1"
    )
    assert main(["plan", "--ranks", "3", "--nodes", "2", *GIVEN]) == 0
    text = capsys.readouterr().out
    assert "torchrun --nnodes=2 --nproc_per_node=3 --rdzv_backend=c10d" in text
    assert "2 nodes of 3 ranks" in text


def test_a_run_says_how_it_should_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four generators of 2 groups/s and two trainers of 1 step/s."""
    settings = ["trainer.batch_groups=24", "pool.samples_per_insert=2", f"run.dir={tmp_path}"]
    config = load_config(CONFIGS_DIR / "demo.yaml", settings)
    (tmp_path / "config.yaml").write_text(resolved_yaml(config))
    roles = {"generators": ["g0", "g1", "g2", "g3"], "num_trainers": 2, "hosts": ["a"]}
    (tmp_path / "roles.json").write_text(json.dumps(roles))
    names = (metrics.CAPACITY_STEPS, metrics.CAPACITY_GENERATOR, metrics.CAPACITY_RENDERER)
    row = {"step": 70, "time_s": 0.0} | dict(zip(names, (1.0, 8.0, 8.0), strict=True))
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n")
    figures = plan_json(capsys, "--gpus", "6", "--measured", str(tmp_path))
    steps = {one["name"]: one["balance"]["steps_per_s"] for one in figures["splits"]}
    assert steps["5+1"] == pytest.approx(0.5), "one trainer alone needs two seconds a step"
    assert steps["4+2"] == pytest.approx(4 * 2 * 2 / 24)
    assert figures["best"] == "4+2"
    assert f"--config {tmp_path}/config.yaml trainer.resize_on_resume=true" in figures["command"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ranks", "1"], "--ranks=1: a run needs a generator and a trainer"),
        (["--nodes", "0"], "--nodes=0"),
        (["--seconds", "0"], "--seconds=0"),
        (["--trainer-images-per-s", "-3"], "--trainer-images-per-s=-3"),
        (["--measured", "/no/such/run"], "there is no run in that folder"),
        (["--measured", "/no/such/run", *GIVEN], "leave the given rates out"),
        (["--gpu-s", "3"], "--help lists what there is"),
        (["trainer.stepz=1"], "trainer.stepz is not a setting"),
        ([*GIVEN, "pool.error_buffer=0.1"], "pool.error_buffer"),
        (["run.device=cuda"], "run.device=cuda but torch sees no GPU"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def bench(tmp_path: Path, *settings: str) -> Bench:
    config = load_config(CONFIGS_DIR / "demo.yaml", [*TINY, f"run.dir={tmp_path}", *settings])
    return Bench(config=config, ranks=2, num_gpus=0, seconds=1.0, say=lambda text: None)


def test_a_spec_reaches_the_process_as_it_is(tmp_path: Path) -> None:
    spec = MeasureSpec(
        config=bench(tmp_path).config,
        folder=tmp_path,
        cpu_threads=3,
        cores=((0,), (1,)),
        warm_up_s=1.0,
        measure_s=2.0,
    )
    assert MeasureSpec.read(spec.write()) == spec


def fake_processes(largest: int) -> Callable[..., list[dict[str, Any]]]:
    """Trainers that take a second for every group, and have room for so many."""

    def run(bench: Bench, spec: MeasureSpec, module: str, count: int) -> list[dict[str, Any]]:
        if spec.local_groups > largest:
            raise MeasurementError("it does not fit.", too_large=True)
        step_s = float(spec.local_groups)
        answer = TrainerAnswer(
            step_s=step_s, low_s=step_s, high_s=step_s, num_steps=1, rss_bytes=1.0, gpu_bytes=0.0
        )
        return [asdict(answer)] * count

    return run


def test_a_batch_that_does_not_fit_leaves_the_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = [Split(trainers=count, generators=1) for count in (1, 2, 3)]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Bench, "_run", fake_processes(largest=6))
    times = bench(tmp_path).trainers(splits, nodes=1)
    assert times.too_large == [48]
    assert [times.fits(images) for images in (24, 48, 96)] == [True, False, False]
    assert sorted(point.local_images for point in times.points) == [16, 24]
    monkeypatch.setattr(Bench, "_run", fake_processes(largest=1))
    with pytest.raises(MeasurementError, match="does not fit"):
        bench(tmp_path).trainers(splits, nodes=1)


@pytest.mark.slow
def test_a_generator_is_measured_at_the_rate_it_keeps(tmp_path: Path) -> None:
    """Never faster than the rate that is set; how much slower is the machine's affair."""
    rate = bench(tmp_path, "images.rate_images_per_s=16").generator(1)
    assert 0.5 * 4 < rate.groups_per_s <= 1.15 * 4
    assert rate.render_groups_per_s is not None
    assert rate.captions_per_s is not None
    assert rate.captions_per_s > rate.groups_per_s, "phrases are quicker than pictures"
    assert rate.rss_bytes > 1e6


@pytest.mark.slow
def test_steps_are_measured_alone_and_together(tmp_path: Path) -> None:
    splits = [Split(trainers=1, generators=1), Split(trainers=2, generators=1)]
    times = bench(tmp_path).trainers(splits, nodes=1)
    measured = {(point.num_trainers, point.local_images): point for point in times.points}
    assert (1, 48) in measured
    assert {images for _, images in measured} == {48, 24}, "each split has its share of the batch"
    for point in measured.values():
        assert 0 < point.low_s <= point.step_s <= point.high_s
        assert point.rss_bytes > 1e8


@pytest.mark.slow
def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "model"
    empty.mkdir()
    settings = ("images.backend=diffusers", f"images.model={empty}")
    with pytest.raises(MeasurementError, match=r"images\.model"):
        bench(tmp_path, *settings).generator(1)


@pytest.mark.slow
def test_of_trainers_that_fail_together_the_one_with_a_reason_speaks(tmp_path: Path) -> None:
    split = [Split(trainers=2, generators=1)]
    with pytest.raises(MeasurementError, match="vit_none"):
        bench(tmp_path, "trainer.backbone=vit_none").trainers(split, nodes=1)


@pytest.mark.slow
def test_a_backbone_that_does_not_fit_says_why(tmp_path: Path) -> None:
    split = [Split(trainers=1, generators=1)]
    with pytest.raises(MeasurementError, match="vit_none"):
        bench(tmp_path, "trainer.backbone=vit_none").trainers(split, nodes=1)
