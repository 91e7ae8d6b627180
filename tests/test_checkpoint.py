"""Checkpoints: bit-exact continuation, atomic files, the last K, clear refusals."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from online_synclr.config import Config, ConfigError
from online_synclr.paths import PROJECT_DIR
from online_synclr.run_folder import incarnation_of
from tests.full_disk import files_end_at
from tests.rank_pool import RankPool
from tests.test_trainer_run import make_role
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, CPU, tiny_batch, tiny_group, tiny_step, weights
from trainer import checkpoint, checkpoint_files, checkpoint_reading
from trainer.distributed import Trainers
from trainer.intake import Intake, build_intake
from trainer.ledger import open_ledger
from trainer.objective.shards import gathered
from trainer.save_record import SaveRecord
from trainer.step import TrainStep
from trainer.totals import Totals
from trainer.writer import CheckpointWriter

DROP_PATH = 0.3
"""Stochastic depth draws from torch's own generator, whose state a checkpoint must bring back."""


def make_config(run_dir: Path, **trainer: Any) -> Config:
    config = tiny_config(**{"drop_path": DROP_PATH, **trainer})
    images = config.images.model_copy(update={"send_px": 20, "render_px": 20})
    run = config.run.model_copy(update={"dir": run_dir})
    return config.model_copy(update={"images": images, "run": run})


def make_intake(config: Config, trainers: Trainers = ALONE) -> Intake:
    return build_intake(
        config, local_batch=config.trainer.batch_groups // trainers.size, seed=trainers.index
    )


def use_intake(intake: Intake, config: Config, num_groups: int) -> None:
    for number in range(num_groups):
        intake.credits_to_issue(1)
        intake.insert(tiny_group(config, number))
    assert intake.try_sample(config.trainer.batch_groups) is not None


def run_steps(train: TrainStep, config: Config, first: int, last: int, trainers: Trainers) -> None:
    for number in range(first, last):
        train(tiny_batch(config, number, trainers), number)


def save(
    run_dir: Path,
    config: Config,
    step: int,
    train: TrainStep,
    intake: Intake,
    trainers: Trainers = ALONE,
) -> None:
    checkpoint.save(
        run_dir / "checkpoints",
        config=config,
        step=step,
        train=train,
        intake=intake,
        trainers=trainers,
        totals=Totals(lost=3, captions=b"12345678", knn_before=0.25) if trainers.is_first else None,
        incarnation=4,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_continues_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    config = make_config(tmp_path, optimizer={"name": optimizer})
    torch.manual_seed(11)
    train, intake = tiny_step(config), make_intake(config)
    use_intake(intake, config, 14)
    run_steps(train, config, 0, 3, ALONE)
    save(tmp_path, config, 3, train, intake)
    assert incarnation_of(tmp_path / "checkpoints" / "step_00000003") == 4
    run_steps(train, config, 3, 5, ALONE)
    expected = weights(train)

    torch.manual_seed(99)
    again, fresh_intake = tiny_step(config), make_intake(config)
    restored = checkpoint.restore(
        checkpoint.choose(config), config=config, train=again, intake=fresh_intake, trainers=ALONE
    )
    assert restored.step == 3
    assert restored.totals == Totals(sent=14 + 3, lost=3, captions=b"12345678", knn_before=0.25)
    run_steps(again, config, 3, 5, ALONE)
    for name, value in weights(again).items():
        assert torch.equal(value, expected[name]), name


def test_settings_of_the_optimiser_win_over_what_was_saved(tmp_path: Path) -> None:
    config = make_config(tmp_path, optimizer={"name": "muon", "muon_lr_ratio": 2.0})
    save(tmp_path, config, 1, tiny_step(config), make_intake(config))
    changed = {"name": "muon", "muon_lr_ratio": 5.0, "betas": [0.8, 0.9]}
    other = make_config(tmp_path, optimizer=changed)
    train = tiny_step(other)
    path = checkpoint.choose(other)
    checkpoint.restore(path, config=other, train=train, intake=make_intake(other), trainers=ALONE)
    adamw, muon = train.optimizer.param_groups[:-1], train.optimizer.param_groups[-1]
    assert muon["rate"] == 5.0
    assert [(group["betas"], group["rate"]) for group in adamw] == [((0.8, 0.9), 1.0)] * 2


def test_the_intake_counts_on_and_its_groups_are_gone(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    train, intake = tiny_step(config), make_intake(config)
    use_intake(intake, config, 14)
    before = intake.counters()
    save(tmp_path, config, 1, train, intake)
    fresh = make_intake(config)
    path = checkpoint.choose(config)
    checkpoint.restore(path, config=config, train=train, intake=fresh, trainers=ALONE)
    after = fresh.counters()
    assert (after.received, after.trained) == (before.received, before.trained)
    assert after.received == after.trained + after.evicted_unused + after.left
    assert (after.groups, after.limiter_error) == (0, 0.0)


def test_groups_that_came_while_a_checkpoint_was_taken_are_sent_as_well(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    train, intake = tiny_step(config), make_intake(config)
    use_intake(intake, config, 14)
    counted = Totals(sent=14 + 3 + 1, lost=3, discarded=1)
    intake.credits_to_issue(1)
    intake.insert(tiny_group(config, 14))
    checkpoint.save(
        tmp_path / "checkpoints",
        config=config,
        step=1,
        train=train,
        intake=intake,
        trainers=ALONE,
        totals=counted,
        incarnation=1,
    )
    fresh = make_intake(config)
    path = checkpoint.choose(config)
    restored = checkpoint.restore(path, config=config, train=train, intake=fresh, trainers=ALONE)
    received = fresh.counters().received
    assert received == 15
    assert restored.totals.sent == received + restored.totals.lost + restored.totals.discarded


def test_nothing_to_restore_starts_at_zero(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert checkpoint.choose(config) is None
    train = tiny_step(config)
    before = weights(train)
    restored = checkpoint.restore(
        None, config=config, train=train, intake=make_intake(config), trainers=ALONE
    )
    assert restored == checkpoint.Restored()
    for name, value in weights(train).items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("then", "now"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimiser_is_refused_in_one_line(tmp_path: Path, then: str, now: str) -> None:
    config = make_config(tmp_path, optimizer={"name": then})
    save(tmp_path, config, 1, tiny_step(config), make_intake(config))
    other = make_config(tmp_path, optimizer={"name": now})
    said = rf"trainer\.optimizer\.name={then}; set it back"
    with pytest.raises(ConfigError, match=said) as caught:
        checkpoint.restore(
            checkpoint.choose(other),
            config=other,
            train=tiny_step(other),
            intake=make_intake(other),
            trainers=ALONE,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"mim": {"prototypes": 24}}, "trainer.mim"),
        (
            {"backbone_args": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}},
            "trainer.backbone_args",
        ),
        ({"contrastive": {"out_dim": 12}}, "trainer.contrastive"),
    ],
)
def test_other_shapes_are_refused_in_one_line(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    config = make_config(tmp_path)
    save(tmp_path, config, 1, tiny_step(config), make_intake(config))
    other = make_config(tmp_path, **changed)
    train = tiny_step(other)
    with pytest.raises(ConfigError, match=r"run\.resume") as caught:
        checkpoint.restore(
            checkpoint.choose(other),
            config=other,
            train=train,
            intake=make_intake(other),
            trainers=ALONE,
        )
    assert f"set back {named}, or" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_checkpoint_is_continued(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    old = checkpoint_files.write_checkpoint(folder, 5, {"a": 1}, {})
    new = checkpoint_files.write_checkpoint(folder, 10, {"a": 1}, {})
    assert checkpoint.choose(config) == new
    with pytest.raises(ConfigError, match=r"run\.resume=never"):
        checkpoint.choose(with_resume(config, "never"))
    assert checkpoint.choose(with_resume(config, new)) == new
    with pytest.raises(ConfigError, match="checkpoint of its own"):
        checkpoint.choose(with_resume(config, old))
    elsewhere = with_resume(make_config(tmp_path / "empty"), old)
    assert checkpoint.choose(elsewhere) == old


def test_a_restarted_attempt_continues_from_what_the_job_wrote(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    given = checkpoint_files.write_checkpoint(tmp_path / "other", 5, {"a": 1}, {})
    for resume in ("never", given):
        started = with_resume(config, resume)
        assert checkpoint.choose(started, attempt=1) == (None if resume == "never" else given)
    own = checkpoint_files.write_checkpoint(folder, 10, {"a": 1}, {})
    for resume in ("never", given):
        assert checkpoint.choose(with_resume(config, resume), attempt=1) == own


def with_resume(config: Config, resume: object) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"resume": resume})})


def test_the_last_k_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint_files.write_checkpoint(tmp_path, step, {"step": step}, {"config.yaml": "a: 1\n"})
        checkpoint_files.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000006", "step_00000008"]
    newest = tmp_path / "step_00000008"
    assert checkpoint_files.parse_file(checkpoint_files.complete_file(newest)) == {"step": 8}
    assert (newest / "config.yaml").read_text() == "a: 1\n"


def test_partial_checkpoints_are_ignored_and_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    whole = checkpoint_files.write_checkpoint(folder, 3, {"a": torch.ones(100)}, {})
    partial = folder / ".step_00000009.123.tmp"
    partial.mkdir()
    cut_off = folder / "step_00000007"
    cut_off.mkdir()
    data = (whole / "checkpoint.pt").read_bytes()
    (cut_off / "checkpoint.pt").write_bytes(data[: len(data) // 2])
    (folder / "notes.txt").write_text("not a checkpoint")
    assert checkpoint_files.latest(tmp_path) == whole
    with pytest.raises(ConfigError, match="not a complete checkpoint"):
        checkpoint_files.complete_file(cut_off)
    checkpoint_files.write_checkpoint(folder, 7, {"a": 1}, {})
    assert not partial.exists()
    assert checkpoint_files.latest(tmp_path) == cut_off


def test_a_checkpoint_can_run_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    torch.save({"evil": Path}, folder / "checkpoint.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint_files.parse_file(checkpoint_files.complete_file(folder))


def test_a_disk_that_fills_up_half_way_is_an_os_error(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    state = {"data": torch.zeros(2**18)}
    checkpoint_files.write_checkpoint(folder, 1, state, {})
    with files_end_at(2**19), pytest.raises(OSError, match="File too large"):
        checkpoint_files.write_checkpoint(folder, 2, state, {})
    assert checkpoint_files.latest(tmp_path) == folder / "step_00000001"
    checkpoint_files.write_checkpoint(folder, 3, state, {})
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000001", "step_00000003"]


def test_a_checkpoint_that_could_not_be_written_is_never_called_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    said: list[str] = []
    config = make_config(tmp_path)
    writer = make_writer(tmp_path, config, said)
    monkeypatch.setattr(writer, "totals", lambda merged: Totals())
    with monkeypatch.context() as full_disk:
        full_disk.setattr(checkpoint, "save", fail)
        assert not writer.save(2)
        assert not writer.save(2), "leaving at the same step must not report success"
        assert not writer.save(3)
    assert len(said) == 1, "the onset alone"
    assert said[0].startswith("THE CHECKPOINT OF STEP 2 COULD NOT BE WRITTEN: No space left")
    assert writer.save(4)
    assert writer.save(4)
    assert said[1:] == ["the checkpoint of step 4 is written; 2 before it could not be"]


def test_a_stop_tries_a_failed_checkpoint_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    writer = make_writer(tmp_path, make_config(tmp_path, checkpoint={"every_steps": 2}), said)
    monkeypatch.setattr(writer, "totals", lambda merged: Totals())
    assert writer.is_due(2)
    with files_end_at(2**12):
        assert not writer.save(2)
    assert not writer.is_due(2)
    assert writer.save(2), "there is room again"
    assert checkpoint_files.latest(tmp_path) == tmp_path / "checkpoints" / "step_00000002"
    assert said[1:] == ["the checkpoint of step 2 is written, at another try"]


def make_writer(
    run_dir: Path, config: Config, said: list[str], trainers: Trainers = ALONE
) -> CheckpointWriter:
    role, intake = make_role(run_dir), make_intake(config, trainers)
    return CheckpointWriter(
        config,
        role,
        train=tiny_step(config, trainers),
        intake=intake,
        trainers=trainers,
        reporter=FakeReporter(),  # type: ignore[arg-type]
        ledger=open_ledger(config, role, intake, resumed_step=0, say=said.append),
        restored=checkpoint.Restored(),
        saves=SaveRecord(),
        say=said.append,
    )


class FakeReporter:
    """Has no figures."""

    def collect(self) -> None:
        """Nobody to wait for."""


WRITE_FOR_EVER = """
import sys, torch
from pathlib import Path
from trainer.checkpoint_files import prune, write_checkpoint
step = 0
while True:
    step += 1
    state = {"step": step, "data": torch.full((2**18,), step)}
    write_checkpoint(Path(sys.argv[1]), step, state, {})
    prune(Path(sys.argv[1]), 2)
    print(step, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.011])
def test_killed_while_writing(tmp_path: Path, delay_s: float) -> None:
    folder = tmp_path / "checkpoints"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_DIR,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
    )
    assert writer.stdout is not None
    done = [int(writer.stdout.readline()) for _ in range(3)][-1]
    # Not for synchronisation: it spreads the kill over the phases of a write.
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    done = max([done, *map(int, writer.stdout.read().split())])
    writer.wait()
    newest = checkpoint_files.latest(tmp_path)
    assert newest is not None
    step = checkpoint_files.step_of(newest)
    assert step >= done
    state = checkpoint_files.parse_file(checkpoint_files.complete_file(newest))
    assert state["step"] == step
    assert bool((state["data"] == step).all())


# --- two ranks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def two_trainers() -> Trainers:
    group = dist.group.WORLD
    return Trainers(index=dist.get_rank(), size=2, device=CPU, device_group=group, cpu_group=group)


def trained_and_saved(run_dir: Path, trainers: Trainers, parallel: str) -> TrainStep:
    config = make_config(run_dir, parallel=parallel)
    torch.manual_seed(40 + trainers.index)
    train, intake = tiny_step(config, trainers), make_intake(config, trainers)
    for number in range(4 + trainers.index):
        intake.credits_to_issue(1)
        intake.insert(tiny_group(config, number))
    run_steps(train, config, 0, 2, trainers)
    save(run_dir, config, 2, train, intake, trainers)
    return train


def save_and_go_on(run_dir: Path, parallel: str) -> dict[str, torch.Tensor]:
    trainers = two_trainers()
    train = trained_and_saved(run_dir, trainers, parallel)
    run_steps(train, make_config(run_dir, parallel=parallel), 2, 4, trainers)
    return weights(train)


def restore_and_train(
    run_dir: Path, shared: bool, parallel: str
) -> tuple[dict[str, torch.Tensor], int]:
    trainers = two_trainers()
    if not shared and not trainers.is_first:
        checkpoint_reading.can_see = lambda stamp: False  # type: ignore[assignment]
    config = make_config(run_dir, parallel=parallel)
    train, intake = tiny_step(config, trainers), make_intake(config, trainers)
    # Only trainer 0 looks at the disk.
    path = checkpoint.choose(config) if trainers.is_first else None
    checkpoint.restore(path, config=config, train=train, intake=intake, trainers=trainers)
    run_steps(train, config, 2, 4, trainers)
    return weights(train), intake.counters().received


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_each_rank_continues_from_its_own_state(
    ranks: RankPool, tmp_path: Path, parallel: str
) -> None:
    expected = ranks.run(save_and_go_on, tmp_path, parallel)
    for shared_files in (True, False):
        results = ranks.run(restore_and_train, tmp_path, shared_files, parallel)
        for (found, _), wanted in zip(results, expected, strict=True):
            for name, value in found.items():
                assert torch.equal(value, wanted[name]), name
        assert [received for _, received in results] == [4, 5]


def save_twice(run_dir: Path, parallel: str) -> list[bool]:
    """Each with a folder of its own; trainer 0's has no room at the first try."""
    trainers = two_trainers()
    own = run_dir / str(trainers.index)
    writer = make_writer(own, make_config(own, parallel=parallel), [], trainers)
    writer.totals = lambda merged: Totals()  # type: ignore[method-assign]
    blocked = own / "checkpoints"
    if trainers.is_first:
        blocked.write_text("a file where the folder belongs")
    saved = [writer.save(2)]
    if trainers.is_first:
        blocked.unlink()
    return [*saved, writer.save(2), writer.save(2)]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_trainers_know_that_a_checkpoint_was_not_written(
    ranks: RankPool, tmp_path: Path, parallel: str
) -> None:
    assert ranks.run(save_twice, tmp_path, parallel) == [[False, True, True]] * 2


# --- another number of trainers ------------------------------------------------------------------


def everything(train: TrainStep) -> dict[str, torch.Tensor]:
    """All weights, and the optimiser's state by name; whole, and every trainer calls it."""
    state = gathered(train.optimizer.state_dict(), keep=True)
    return weights(train) | dict(flatten("optimizer", state))


def flatten(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(f"{name}.{key}", part)
    elif isinstance(value, torch.Tensor):
        yield name, value.clone()


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert sum(name.startswith("optimizer.") for name in wanted) > 20
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def save_from_two(run_dir: Path, parallel: str = "ddp") -> tuple[dict[str, torch.Tensor], bytes]:
    train = trained_and_saved(run_dir, two_trainers(), parallel)
    return everything(train), torch.get_rng_state().numpy().tobytes()


def restore_on_two(run_dir: Path, parallel: str) -> tuple[dict[str, torch.Tensor], int, float]:
    trainers = two_trainers()
    config = make_config(run_dir, resize_on_resume=True, parallel=parallel)
    train, intake = tiny_step(config, trainers), make_intake(config, trainers)
    torch.manual_seed(70 + trainers.index)
    path = checkpoint.choose(config) if trainers.is_first else None
    restored = checkpoint.restore(
        path, config=config, train=train, intake=intake, trainers=trainers
    )
    found = everything(train)
    run_steps(train, config, restored.step, restored.step + 1, trainers)
    return found, intake.counters().received, torch.rand(()).item()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_trainers_become_one(ranks: RankPool, tmp_path: Path, parallel: str) -> None:
    (wanted, _), (other, _) = ranks.run(save_from_two, tmp_path, parallel)
    assert_equal(other, wanted)
    config = make_config(tmp_path, resize_on_resume=True)
    train, intake = tiny_step(config), make_intake(config)
    torch.manual_seed(70)
    before = torch.get_rng_state()
    restored = checkpoint.restore(
        checkpoint.choose(config), config=config, train=train, intake=intake, trainers=ALONE
    )
    assert restored.step == 2
    assert_equal(everything(train), wanted)
    assert intake.counters().received == 9, "one trainer counts on for both"
    assert torch.equal(torch.get_rng_state(), before), "seeded for this start, as it was"
    run_steps(train, config, 2, 3, ALONE)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_trainer_becomes_two(ranks: RankPool, tmp_path: Path, parallel: str) -> None:
    config = make_config(tmp_path)
    train, intake = tiny_step(config), make_intake(config)
    use_intake(intake, config, 14)
    run_steps(train, config, 0, 2, ALONE)
    save(tmp_path, config, 2, train, intake)
    wanted = everything(train)
    results = ranks.run(restore_on_two, tmp_path, parallel)
    (first, received, draw), (second, none, other_draw) = results
    assert_equal(first, wanted)
    assert_equal(second, wanted)
    assert (received, none) == (14, 0), "trainer 0 counts for all"
    assert draw != other_draw, "drop path draws differ between the trainers"


@pytest.mark.parametrize(("then", "now"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_run_goes_on_whole_or_sharded(
    ranks: RankPool, tmp_path: Path, then: str, now: str
) -> None:
    (wanted, _), _ = ranks.run(save_from_two, tmp_path, then)
    for found, _, _ in ranks.run(restore_on_two, tmp_path, now):
        assert_equal(found, wanted)


def test_another_number_of_trainers_is_refused_unless_asked_for(
    ranks: RankPool, tmp_path: Path
) -> None:
    ranks.run(save_from_two, tmp_path)
    for changes, said in (
        ({}, r"of 2 trainers and this run has 1; set trainer\.resize_on_resume=true"),
        (
            {"resize_on_resume": True, "batch_groups": 8},
            r"keeps the global batch, but trainer\.batch_groups was 6 and is 8",
        ),
    ):
        config = make_config(tmp_path, **changes)
        with pytest.raises(ConfigError, match=said) as caught:
            checkpoint.restore(
                checkpoint.choose(config),
                config=config,
                train=tiny_step(config),
                intake=make_intake(config),
                trainers=ALONE,
            )
        assert "\n" not in str(caught.value)


# --- leftovers and damage ------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = tmp_path / "checkpoints"
    good = checkpoint_files.write_checkpoint(folder, 3, {"a": torch.ones(1000)}, {})
    bad = checkpoint_files.write_checkpoint(folder, 5, {"a": torch.ones(1000)}, {})
    data = bytearray((bad / "checkpoint.pt").read_bytes())
    data[data.index(torch.ones(1000).numpy().tobytes()) + 1234] ^= 1
    (bad / "checkpoint.pt").write_bytes(data)
    assert checkpoint_files.is_complete(bad), "nothing but the checksums can tell"
    said: list[str] = []
    assert checkpoint.choose(config, say=said.append) == good
    assert said == [
        "checkpoint step_00000005 is damaged; it is kept as damaged_step_00000005 and not used"
    ]
    again = checkpoint_files.write_checkpoint(folder, 5, {"a": torch.ones(1000)}, {})
    assert checkpoint_files.is_intact(again), "the step is saved anew"


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    state = {"step": 3, "config": "a: 1\n", "weight": torch.arange(16.0)}
    path = checkpoint_files.write_checkpoint(tmp_path, 3, state, {})
    file = path / checkpoint_files.FILE_NAME
    data = file.read_bytes()
    found = 0
    for position in range(0, len(data), 4):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position // 4 % 8
        file.write_bytes(flipped)
        if not checkpoint_files.is_intact(path):
            found += 1
            continue
        read = checkpoint_files.parse_file(file)
        assert (read["step"], read["config"]) == (3, "a: 1\n"), position
        assert torch.equal(read["weight"], state["weight"]), position
    assert found > len(data) // 4 // 3, "the rest is padding, dates and the like"
    file.write_bytes(data)
    assert checkpoint_files.is_intact(path)


def make_unreadable(path: Path) -> None:
    """Opening it fails for everybody, root too."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path)


def make_readable(path: Path) -> None:
    path.unlink()
    path.with_name("elsewhere").rename(path)


def test_a_checkpoint_that_cannot_be_read_never_means_a_new_start(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    path = checkpoint_files.write_checkpoint(tmp_path / "checkpoints", 5, {"a": 1}, {})
    for blocked in (path / "checkpoint.pt", tmp_path / "checkpoints"):
        make_unreadable(blocked)
        for resume in ("auto", "never", tmp_path / "other"):
            for attempt in (0, 1):
                with pytest.raises(ConfigError, match="mend the disk, or name another") as caught:
                    checkpoint.choose(with_resume(config, resume), attempt=attempt)
                assert "Too many levels of symbolic links" in str(caught.value)
                assert "\n" not in str(caught.value)
        make_readable(blocked)
        assert checkpoint.choose(config) == path


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(archive: zipfile.ZipFile) -> None:
        raise OSError(errno.EIO, "Input/output error")

    config = make_config(tmp_path)
    path = checkpoint_files.write_checkpoint(tmp_path / "checkpoints", 5, {"a": 1}, {})
    with monkeypatch.context() as disk:
        disk.setattr(zipfile.ZipFile, "testzip", fail)
        with pytest.raises(ConfigError, match=r"step_00000005 cannot be read \(Input/output error"):
            checkpoint.choose(config)
    assert checkpoint.choose(config) == path


def test_where_all_are_damaged_nothing_starts_and_nothing_is_touched(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = tmp_path / "checkpoints"
    for step in (3, 5):
        path = checkpoint_files.write_checkpoint(folder, step, {"a": torch.ones(1000)}, {})
        data = bytearray((path / "checkpoint.pt").read_bytes())
        data[data.index(torch.ones(1000).numpy().tobytes())] ^= 1
        (path / "checkpoint.pt").write_bytes(data)
    for _ in range(2):
        said = "step_00000005 is damaged, step_00000003 is damaged"
        with pytest.raises(ConfigError, match=said):
            checkpoint.choose(config)
    (folder / "step_00000003").rename(folder / "damaged_step_00000003")
    shutil.rmtree(folder / "step_00000005")
    with pytest.raises(ConfigError, match=r"damaged_step_00000003 was set aside"):
        checkpoint.choose(config)


def test_newer_ones_that_a_run_goes_on_without_are_out_of_its_way(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = tmp_path / "checkpoints"
    old = checkpoint_files.write_checkpoint(folder, 2, {"from": "before"}, {})
    cut_off = checkpoint_files.write_checkpoint(folder, 4, {"from": "before"}, {})
    (cut_off / "checkpoint.pt").write_bytes((old / "checkpoint.pt").read_bytes()[:-30])
    unread = checkpoint_files.write_checkpoint(folder, 6, {"from": "before"}, {})
    make_unreadable(unread / "checkpoint.pt")
    (folder / "unread_step_00000006").mkdir()
    said: list[str] = []
    assert checkpoint.choose(config, say=said.append) == old
    assert [line.split(" (")[0] for line in said] == [
        "checkpoint step_00000006 cannot be read",
        "checkpoint step_00000004 is not complete; it is kept as damaged_step_00000004 and not "
        "used",
    ]
    make_readable(folder / "unread_step_00000006.1" / "checkpoint.pt")
    for step in (4, 6):
        checkpoint_files.write_checkpoint(folder, step, {"from": "now"}, {})
        checkpoint_files.prune(folder, 2)
    kept = [path for path in checkpoint_files.complete_checkpoints(folder) if path != old]
    assert [path.name for path in kept] == ["step_00000004", "step_00000006"]
    for path in kept:
        assert checkpoint_files.parse_file(path / "checkpoint.pt") == {"from": "now"}
    aside = folder / "unread_step_00000006.1" / "checkpoint.pt"
    assert checkpoint_files.parse_file(aside) == {"from": "before"}


def test_pruning_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint_files.write_checkpoint(tmp_path, step, {"step": step}, {})
    make_unreadable(tmp_path / "step_00000004" / "checkpoint.pt")
    checkpoint_files.prune(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000006"]


def test_the_next_attempt_removes_what_a_dead_one_left_half_written(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = tmp_path / "checkpoints"
    whole = checkpoint_files.write_checkpoint(folder, 3, {"a": 1}, {})
    (folder / ".step_00000009.123.tmp").mkdir()
    (folder / ".step_00000001.123.old").mkdir()
    assert checkpoint.choose(config) == whole
    assert [path.name for path in folder.iterdir()] == [whole.name]


def test_a_failed_write_gives_its_room_back(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with files_end_at(2**19), pytest.raises(OSError, match="File too large"):
        checkpoint_files.write_checkpoint(folder, 2, {"data": torch.zeros(2**18)}, {})
    assert list(folder.iterdir()) == []
