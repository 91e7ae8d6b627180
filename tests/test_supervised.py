"""The supervised phase: its pictures, its layers' rates, that it learns, goes on and refuses."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from online_synclr.__main__ import main
from online_synclr.config import Config, ConfigError, resolved_yaml
from online_synclr.config.supervised_checks import check_no_supervised_phase, check_supervised
from online_synclr.paths import CHECK_SET_DIR
from tests.rank_pool import RankPool
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, CPU, tiny_step
from trainer import checkpoint, checkpoint_files
from trainer.distillation.sources import open_source
from trainer.distributed import Trainers
from trainer.stop import StopRequest
from trainer.supervised.folder import LabelledFiles, read_folder
from trainer.supervised.loading import Share, load_square, positions_of, train_batches
from trainer.supervised.main import _run
from trainer.supervised.network import build_classifier, build_optimizer
from trainer.totals import Totals

BACKBONE = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "weight_init": "jax"}
COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 40), "red": (220, 30, 30)}


def save_pictures(folder: Path, each: int, seed: int) -> None:
    """Noisy pictures of several shapes; the class is the colour."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            shape = (20 + number % 3 * 8, 24, 3)
            pixels = np.clip(random.normal(colour, 60, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder / "train", 8, seed=0)
    save_pictures(folder / "val", 5, seed=1)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with one checkpoint of step 7, its teacher unlike its student."""
    folder = tmp_path_factory.mktemp("run")
    augment = {"jitter": 0.0, "grey": 0.0, "solarise": 0.0}
    config = tiny_config(backbone_args=BACKBONE, augment=augment)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})
    step = tiny_step(config)
    for parameter in step.model.teacher.parameters():
        parameter.mul_(1.1)
    config_yaml = resolved_yaml(config)
    state = {
        "format": checkpoint.FORMAT,
        "step": 7,
        "config": config_yaml,
        "student": step.model.student.state_dict(),
        "teacher": step.model.teacher.state_dict(),
        "totals": checkpoint.as_tensor(Totals().encode()),
    }
    texts = {checkpoint.CONFIG_NAME: config_yaml}
    checkpoint_files.write_checkpoint(folder / "checkpoints", 7, state, texts)
    return folder


def finetune(run: Path, data: Path | str, out: Path, *overrides: str) -> int:
    fixed = (
        "run.device=cpu",
        "run.cpu_threads=1",
        "monitor.log_every_steps=1",
        "trainer.supervised.workers=0",
        "trainer.supervised.batch_images=12",
        "trainer.supervised.warmup_steps=2",
    )
    return main(["finetune", str(run), f"--data={data}", f"--out={out}", *fixed, *overrides])


def newest(out: Path) -> dict[str, Any]:
    path = checkpoint_files.latest(out)
    assert path is not None
    return checkpoint_files.parse_file(path / checkpoint_files.FILE_NAME)


def metrics_of(out: Path, name: str) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


# --- the whole command ---


def test_it_learns_real_pictures_from_a_run(tmp_path: Path, run: Path) -> None:
    """Three classes of the bundled ones: so small a network takes long over all fifteen."""
    out, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    for name in ("clothing", "plants", "sea_animals"):
        (data / name).symlink_to(CHECK_SET_DIR / name)
    code = finetune(
        run,
        data,
        out,
        *("trainer.supervised.steps=40", "trainer.supervised.peak_lr=0.01"),
        "trainer.crops.global_scale=[0.8, 1.0]",
        *("trainer.supervised.batch_images=96", "trainer.checkpoint.every_steps=20"),
        *("trainer.supervised.layer_decay=1.0", "trainer.supervised.label_smoothing=0"),
        "trainer.augment={jitter: 0.0, grey: 0.0, global_blur: [0.0, 0.0], solarise: 0.0}",
    )
    assert code == 0
    loss, accuracy = (metrics_of(out, f"supervised/{name}") for name in ("loss", "accuracy"))
    assert len(loss) == 40
    assert np.mean(loss[-5:]) < 0.85 * np.mean(loss[:5])
    assert np.mean(accuracy[-5:]) > np.mean(accuracy[:5]) + 0.15
    names = [path.name for path in checkpoint_files.complete_checkpoints(out / "checkpoints")]
    assert names == ["step_00000020", "step_00000040"]
    assert json.loads((out / "supervised.json").read_text())["images_seen"] == 40 * 96
    assert list((out / "tb").glob("events.out.tfevents.*"))


def test_pictures_it_was_not_trained_on_get_their_class(
    tmp_path: Path, run: Path, pictures: Path
) -> None:
    out = tmp_path / "out"
    settings = ("trainer.supervised.steps=25", "trainer.supervised.peak_lr=0.01")
    assert finetune(run, pictures, out, *settings) == 0
    assert metrics_of(out, "supervised/val_accuracy")[-1] > 0.8
    assert metrics_of(out, "supervised/val_accuracy_ema")[-1] > 0.8
    state = newest(out)
    assert state["supervised"]["classes"] == list(COLOURS)
    assert state["supervised"]["source"].endswith("step 7, student")


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_it_starts_from_the_network_asked_for_and_is_read_like_a_run(
    tmp_path: Path, run: Path, pictures: Path, network: str
) -> None:
    """One step at a rate of nearly nothing leaves the run's weights, but for the classifier."""
    out = tmp_path / "out"
    settings = ("trainer.supervised.steps=1", "trainer.supervised.warmup_steps=0")
    tiny = ("trainer.supervised.peak_lr=1e-12", f"trainer.supervised.network={network}")
    assert finetune(run, pictures, out, *settings, *tiny) == 0
    of_run, of_phase = newest(run)[network], newest(out)
    for name in ("student", "teacher"):
        backbone = {k: v for k, v in of_phase[name].items() if k.startswith("backbone.")}
        assert set(backbone) == {key for key in of_run if key.startswith("backbone.vit.")}
        for key, value in backbone.items():
            torch.testing.assert_close(value, of_run[key], msg=key)
    read = open_source(str(out), lambda patch: None).model.state_dict()
    assert torch.equal(read["cls_token"], of_phase["teacher"]["backbone.vit.cls_token"])


# --- going on, and ranks ---


def phase_config(out: Path, pictures: Path, **supervised: Any) -> Config:
    settings = {"folder": str(pictures), "batch_images": 12, "workers": 0, "warmup_steps": 1}
    supervised = {**settings, "steps": 6, "peak_lr": 1e-3, **supervised}
    config = tiny_config(backbone_args=BACKBONE, supervised=supervised)
    run = config.run.model_copy(update={"dir": out})
    monitor = config.monitor.model_copy(update={"log_every_steps": 1})
    return config.model_copy(update={"run": run, "monitor": monitor})


class StopAfter(StopRequest):
    """Asks for a stop once the phase has asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(grace_s=60.0)
        self._times = times

    @property
    def requested(self) -> bool:
        """Counts."""
        self._times -= 1
        return self._times < 0


def run_phase(config: Config, run: Path, trainers: Trainers = ALONE, steps: int = 1000) -> None:
    images = read_folder(config.trainer.supervised.folder)
    path = run / "checkpoints" / "step_00000007"
    assert _run(config, path, images, trainers, StopAfter(steps)) == 0


def test_a_phase_that_was_stopped_takes_the_very_same_steps(
    tmp_path: Path, run: Path, pictures: Path
) -> None:
    settings: dict[str, Any] = {"drop_path": 0.3}
    for name, stops in (("whole", (1000,)), ("parts", (2, 2, 1000))):
        for steps in stops:
            run_phase(phase_config(tmp_path / name, pictures, **settings), run, steps=steps)
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert whole["step"] == parts["step"] == 6
    for network in ("student", "teacher"):
        for key, value in whole[network].items():
            assert torch.equal(value, parts[network][key]), (network, key)
    losses = [metrics_of(tmp_path / name, "supervised/loss") for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def run_on_rank(out: Path, pictures: Path, run: Path) -> None:
    group = dist.group.WORLD
    trainers = Trainers(
        index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group
    )
    run_phase(phase_config(out, pictures, drop_path=0.0), run, trainers)


def test_two_ranks_take_the_steps_of_one(
    tmp_path: Path, run: Path, pictures: Path, ranks: RankPool
) -> None:
    run_phase(phase_config(tmp_path / "one", pictures, drop_path=0.0), run)
    ranks.run(run_on_rank, tmp_path / "two", pictures, run)
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    start = newest(run)["student"]
    for key, value in one["student"].items():
        if key in start:
            moved = (value - start[key]).abs().max().item()
            assert (two["student"][key] - value).abs().max().item() < moved / 20 + 1e-7, key
    for name in ("val_accuracy", "loss"):
        found = [metrics_of(tmp_path / out, f"supervised/{name}") for out in ("one", "two")]
        assert found[0] == pytest.approx(found[1], rel=1e-3), name


# --- pictures ---


def share(rank: int = 0, num_ranks: int = 1, batch_images: int = 4, side: int = 16) -> Share:
    return Share(
        rank=rank, num_ranks=num_ranks, batch_images=batch_images, side=side, seed=5, workers=0
    )


def test_every_epoch_has_each_picture_once_whatever_the_ranks() -> None:
    alone = [key for step in range(7) for key in positions_of(step, 14, share())]
    for epoch in (0, 1):
        assert sorted(index for index, of in alone if of == epoch) == list(range(14))
    assert [index for index, of in alone if of == 0] != [index for index, of in alone if of == 1]
    shared = [
        key
        for step in range(7)
        for rank in (0, 1)
        for key in positions_of(step, 14, share(rank, num_ranks=2))
    ]
    assert shared == alone


@pytest.mark.parametrize(("place", "left", "top"), [((0.5, 0.5), 8, 0), ((0.0, 1.0), 0, 0)])
def test_squares_are_cut_where_asked(
    tmp_path: Path, place: tuple[float, float], left: int, top: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    small = Image.fromarray(pixels).resize((32, 16), Image.Resampling.BICUBIC)
    expected = np.array(small)[top : top + 16, left : left + 16]
    square = load_square(tmp_path / "one.png", 16, place)
    assert np.array_equal(square.permute(1, 2, 0).numpy(), expected)


def test_workers_read_the_same_as_the_rank_itself(pictures: Path) -> None:
    files = read_folder(str(pictures)).train
    read = []
    for workers in (0, 2):
        own = Share(rank=0, num_ranks=1, batch_images=4, side=16, seed=5, workers=workers)
        read.append(list(train_batches(files, own, first_step=3, last_step=6)))
    assert len(read[0]) == 3
    for one, other in zip(*read, strict=True):
        assert torch.equal(one.images_N3SS, other.images_N3SS)
        assert torch.equal(one.labels_N, other.labels_N)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    batches = train_batches(LabelledFiles((bad,), (0,)), share(), first_step=0, last_step=1)
    with pytest.raises(ConfigError, match=r"bad\.png cannot be read .*remove or replace it"):
        next(batches)


def test_folders_without_classes_or_with_others_in_val(tmp_path: Path) -> None:
    save_pictures(tmp_path / "val" / "nested", 1, seed=0)
    with pytest.raises(ConfigError, match="in 1 sub-folders"):
        read_folder(str(tmp_path))
    save_pictures(tmp_path / "train", 1, seed=0)
    with pytest.raises(ConfigError, match="class nested that train/ has not"):
        read_folder(str(tmp_path))


# --- layers ---


def test_each_layer_learns_slower_than_the_one_above() -> None:
    settings = tiny_config(supervised={"layer_decay": 0.5}).trainer  # two blocks
    classifier = build_classifier(settings, 3, run_seed=0, drop_path=0.0)
    rates = {}
    optimizer = build_optimizer(classifier, settings.supervised)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = (group["rate"], group["decay"])
    assert rates.keys() == set(names.values())
    vit = "backbone.vit."
    assert rates["classifier.weight"] == (1.0, True)
    assert rates["classifier.bias"] == (1.0, False)
    assert rates[f"{vit}norm.weight"] == (0.5, False)
    assert rates[f"{vit}blocks.1.mlp.fc1.weight"] == (0.5, True)
    assert rates[f"{vit}blocks.0.mlp.fc1.weight"] == (0.25, True)
    assert rates[f"{vit}patch_embed.proj.weight"] == (0.125, True)
    assert rates[f"{vit}pos_embed"] == rates[f"{vit}cls_token"] == (0.125, False)


# --- what is refused ---


def refusal(capsys: pytest.CaptureFixture[str], call: Callable[[], int]) -> str:
    assert call() == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one]
    return line


def test_wrong_folders_and_settings_are_one_line(
    tmp_path: Path, run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "no complete checkpoint" in refusal(capsys, lambda: finetune(tmp_path, pictures, out))
    assert "no folder /nowhere" in refusal(capsys, lambda: finetune(run, "/nowhere", out))
    assert "is the run itself" in refusal(capsys, lambda: finetune(run, pictures, run))
    wrong = "trainer.supervised.batch_imags=3"
    said = refusal(capsys, lambda: finetune(run, pictures, out, wrong))
    assert "did you mean trainer.supervised.batch_images" in said
    assert not out.exists()
    said = refusal(capsys, lambda: finetune(run, pictures, out, "trainer.crops.global_px=32"))
    assert "differs from the settings' at backbone.vit.pos_embed" in said


def test_a_phase_goes_on_only_with_what_it_began_with(
    tmp_path: Path, run: Path, pictures: Path
) -> None:
    run_phase(phase_config(tmp_path / "out", pictures), run, steps=1)
    config = phase_config(tmp_path / "out", pictures, network="teacher")
    with pytest.raises(ConfigError, match="began with another checkpoint or network"):
        run_phase(config, run)
    with pytest.raises(ConfigError, match="began with other classes"):
        run_phase(phase_config(tmp_path / "out", Path("check_set")), run)
    state = newest(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"is of a supervised phase"):
        checkpoint._check_format(state)
    own = tmp_path / "own"
    checkpoint_files.write_checkpoint(own / "checkpoints", 7, newest(run), {})
    with pytest.raises(ConfigError, match="a run with checkpoints of its own"):
        run_phase(phase_config(own, pictures), run)


def test_settings_that_cannot_work(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="leave it out here, and when the run is done"):
        check_no_supervised_phase(phase_config(out, pictures))
    assert main(["--dry-run", "trainer.supervised.folder=check_set"]) == 2
    for settings, num_ranks, said in (
        ({"folder": ""}, 1, "give --data DIR"),
        ({}, 5, "batch_images=12 does not divide over 5 ranks"),
        ({"warmup_steps": 7}, 1, "warmup_steps=7 is more than all"),
        ({"load_px": 8}, 1, "load_px=8 is smaller than the crops"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_supervised(phase_config(out, pictures, **settings), num_ranks)
