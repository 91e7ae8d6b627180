"""A trainer's ledger: complete before a checkpoint, exact after a crash, safe on a full disk."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from online_synclr.commands.ledger import disagreements, summary_to_compare
from online_synclr.config import Config, ConfigError
from online_synclr.ledger import writer as ledger_writer
from online_synclr.ledger.durable_file import DurableFile
from online_synclr.ledger.reading import kept_entries, read_ledger
from online_synclr.ledger.totals import LedgerTotals, count_ledger
from online_synclr.monitor import metrics
from online_synclr.monitor.summary import Summary
from tests.rank_pool import RankPool
from tests.test_checkpoint import FakeReporter, make_intake, two_trainers
from tests.test_checkpoint import make_config as tiny_run
from tests.test_trainer_run import checkpoints, make_config, make_role, play
from tests.tiny_step import tiny_step
from trainer import checkpoint
from trainer.checkpoint import Restored
from trainer.intake import Sampled
from trainer.ledger import TrainerLedger
from trainer.loop import TrainLoop
from trainer.save_record import SaveRecord
from trainer.totals import Totals
from trainer.writer import CheckpointWriter


def totals(config: Config) -> LedgerTotals:
    return count_ledger(read_ledger(config.run.dir))


def wrong(config: Config) -> list[str]:
    """What the run's summary, of its last attempt, counts otherwise than its ledger."""
    ledger, counted = read_ledger(config.run.dir), totals(config)
    assert isinstance(summary_to_compare(ledger, counted, config.run.dir), Summary)
    return list(disagreements(ledger, counted, config.run.dir))


def test_every_group_trained_on_is_in_the_ledger_with_its_uses(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", steps=5)
    _, summary, rows = play(config)
    counted = totals(config)
    assert counted.groups == summary.groups_trained == summary.ledger["groups"]
    assert counted.uses == summary.group_uses
    assert (counted.open_uses, counted.duplicates, counted.damages) == (0, 0, [])
    assert counted.captions == summary.distinct_captions
    assert summary.ledger["bytes"] == counted.num_bytes
    assert rows[-1][metrics.LEDGER_GROUPS] == summary.groups_trained
    entries = list(kept_entries(read_ledger(config.run.dir).attempts))
    assert [entry.fact.step for entry in entries] == sorted(entry.fact.step for entry in entries)
    assert entries[0].fact.step == 1
    assert entries[0].file.header.images_settings() == config.images

    longer = make_config(tmp_path / "run", steps=8)
    _, summary, _ = play(longer, incarnation=2)
    counted = totals(longer)
    assert (counted.groups, counted.uses) == (summary.groups_trained, summary.group_uses)
    assert counted.groups == summary.ledger["groups"]
    assert (counted.thrown_away, counted.duplicates) == (0, 0)
    assert wrong(longer) == []


class PowerCutError(Exception):
    """Ends a trainer as nothing in it expects."""


def cut_power_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = TrainLoop._one_step

    def cut(loop: TrainLoop) -> None:
        if loop.step == step:
            raise PowerCutError
        one_step(loop)

    monkeypatch.setattr(TrainLoop, "_one_step", cut)


def test_after_a_crash_the_ledger_tells_what_the_kept_training_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every fact reaches the disk at once, so that there is something to throw away.
    monkeypatch.setattr(ledger_writer, "BLOCK_GROUPS", 1)
    monkeypatch.setattr(ledger_writer, "BLOCK_COUNTS", 1)
    config = make_config(tmp_path / "run", steps=9)
    with monkeypatch.context() as power:
        cut_power_at(5, power)
        with pytest.raises(PowerCutError):
            play(config)
    assert checkpoints(config)[-1] == "step_00000004"
    code, summary, _ = play(config, incarnation=2)
    assert code == 0
    counted = totals(config)
    assert counted.thrown_away > 0
    assert (counted.groups, counted.uses) == (summary.groups_trained, summary.group_uses)
    assert (counted.open_uses, counted.duplicates) == (0, 0)
    assert wrong(config) == []


def test_the_ledger_is_on_disk_before_a_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", steps=5)
    write = checkpoint.checkpoint_files.write_checkpoint
    seen: list[tuple[int, int]] = []

    def look_first(folder: Path, step: int, state: dict[str, Any], texts: Any) -> Path:
        seen.append((step, totals(config).uses))
        return write(folder, step, state, texts)

    monkeypatch.setattr(checkpoint.checkpoint_files, "write_checkpoint", look_first)
    play(config)
    batch = config.trainer.batch_groups
    assert seen == [(2, 2 * batch), (4, 4 * batch), (5, 5 * batch)]


def fill_disk(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[int], bool]) -> None:
    """The ledger's disk is full while `is_full(step)`; half a block gets through."""
    step, write, note = [0], DurableFile._write, TrainerLedger.note

    def watch(ledger: TrainerLedger, sampled: list[Sampled], number: int) -> None:
        step[0] = number
        note(ledger, sampled, number)

    def fail(file: DurableFile, block: bytes) -> None:
        if is_full(step[0]):
            write(file, block[: len(block) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, block)

    monkeypatch.setattr(TrainerLedger, "note", watch)
    monkeypatch.setattr(DurableFile, "_write", fail)


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fill_disk(monkeypatch, lambda step: step in (3, 4))
    config = make_config(tmp_path / "run", steps=6)
    code, summary, _ = play(config)
    said = "".join(capfd.readouterr())
    assert code == 0
    assert checkpoints(config) == ["step_00000002", "step_00000006"]
    assert "OF STEP 4 COULD NOT BE WRITTEN: the ledger is not on disk (trainer 0: " in said
    assert said.count("the ledger cannot be written (No space left on device)") == 1
    counted = totals(config)
    assert (counted.groups, counted.uses) == (summary.groups_trained, summary.group_uses)
    assert (counted.damages, summary.ledger["groups_lost"]) == ([], 0)


def test_a_disk_that_stays_full_ends_in_a_clear_word_and_what_was_saved_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", steps=6)
    with monkeypatch.context() as disk:
        fill_disk(disk, lambda step: step >= 3)
        code, _, _ = play(config)
    assert code == 1
    assert checkpoints(config) == ["step_00000002"]
    assert "the end of the ledger is not on disk (No space left on device)" in (
        capfd.readouterr().err
    )
    code, summary, _ = play(config, incarnation=2)
    assert code == 0
    counted = totals(config)
    assert (counted.groups, counted.uses) == (summary.groups_trained, summary.group_uses)
    assert counted.attempts[0].last_step == 2


def test_a_ledger_that_cannot_begin_is_a_wrong_setting(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", steps=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger").write_text("a file")
    with pytest.raises(ConfigError, match=r"run\.dir: the ledger .* cannot be written"):
        play(config)


# --- two ranks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


class StubLedger:
    """Says whether it is on disk."""

    def __init__(self, error: str | None) -> None:
        self._error = error

    def flush(self, step: int) -> str | None:
        return self._error


def save_with(run_dir: Path, failing: int | None) -> tuple[bool, list[str]]:
    trainers, said = two_trainers(), list[str]()
    config = tiny_run(run_dir)
    writer = CheckpointWriter(
        config,
        make_role(run_dir),
        train=tiny_step(config, trainers),
        intake=make_intake(config, trainers),
        trainers=trainers,
        reporter=FakeReporter(),  # type: ignore[arg-type]
        ledger=StubLedger("full" if dist.get_rank() == failing else None),  # type: ignore[arg-type]
        restored=Restored(),
        saves=SaveRecord(),
        say=said.append,
    )
    writer.totals = lambda merged: Totals()  # type: ignore[method-assign]
    return writer.save(2), said


def test_one_trainers_ledger_holds_the_common_checkpoint_back(
    ranks: RankPool, tmp_path: Path
) -> None:
    results = ranks.run(save_with, tmp_path, 1)
    assert [saved for saved, _ in results] == [False, False]
    sentence = "OF STEP 2 COULD NOT BE WRITTEN: the ledger is not on disk (trainer 1: full)"
    for _, (said,) in results:
        assert sentence in said
    assert not (tmp_path / "checkpoints").exists()
    assert [saved for saved, _ in ranks.run(save_with, tmp_path, None)] == [True, True]
    assert (tmp_path / "checkpoints" / "step_00000002").is_dir()
