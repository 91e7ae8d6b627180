"""Trainers under torchrun that are killed, hang or are told to stop; runs at another size."""

import signal
import time
from pathlib import Path

import pytest

from benchmarks.killed_checks import counted_wrongly, logged_wrongly
from online_synclr.__main__ import DEFAULT_CONFIG
from online_synclr.config import load_config
from online_synclr.monitor.summary import Summary
from tests.killed_job import Job
from tests.torchrun import SYNTHETIC, torchrun
from trainer import checkpoint_files

pytestmark = pytest.mark.slow

BATCH_GROUPS = 12


def make_job(tmp_path: Path, steps: int, *overrides: str, max_restarts: int = 0) -> Job:
    tmp_dir = tmp_path / "tmp"
    tmp_dir.mkdir()
    settings = (f"trainer.steps={steps}", "trainer.checkpoint.every_steps=5", *overrides)
    return Job(
        tmp_path / "run",
        num_trainers=2,
        num_generators=1,
        max_restarts=max_restarts,
        overrides=settings,
        tmp_dir=tmp_dir,
    )


@pytest.mark.parametrize(
    "how", [(), ("trainer.parallel=fsdp", "trainer.optimizer.name=adamw")], ids=["ddp", "fsdp"]
)
def test_a_killed_trainer_brings_the_job_back(tmp_path: Path, how: tuple[str, ...]) -> None:
    with make_job(tmp_path, 40, *how, max_restarts=1) as job:
        job.await_that(lambda: job.newest_checkpoint() >= 10, "no checkpoint")
        job.kill(1)
        assert job.wait() == 0, "".join(job.output)
    output = "".join(job.output)
    assert "online_synclr: trainer 0: another trainer is gone (" in output
    assert "Traceback" not in output
    first, second = job.attempts()
    assert first.start_step == 0
    assert second.start_step >= 10
    summary = Summary.read(job.folder.summary)
    assert not counted_wrongly(
        summary,
        steps=40,
        batch_groups=BATCH_GROUPS,
        attempts=2,
        thrown_away_steps=second.thrown_away_steps,
        max_reuse=load_config(DEFAULT_CONFIG).pool.max_reuse,
    )
    assert not logged_wrongly(job.folder, 40)
    assert list((tmp_path / "tmp").glob("osynclr-*")) == []
    assert job.left_over() == []


def test_a_trainer_whose_peer_hangs_leaves_in_its_grace(tmp_path: Path) -> None:
    with make_job(tmp_path, 10**6, "run.grace_s=2") as job:
        job.await_that(lambda: job.newest_checkpoint() >= 5, "no checkpoint")
        job.signal(1, signal.SIGSTOP)
        left = job.signal(0, signal.SIGUSR1)
        began_s = time.monotonic()
        left.wait(20)
        assert time.monotonic() - began_s < 8
        job.kill(1)
        assert job.wait() == 1
    output = "".join(job.output)
    assert "not done 2 s after SIGUSR1 (run.grace_s), ended as it is" in output
    newest = checkpoint_files.latest(job.folder.root)
    assert newest is not None
    assert checkpoint_files.is_intact(newest)
    assert list((tmp_path / "tmp").glob("osynclr-*")) == []


def test_ranks_leave_in_order_when_torchrun_itself_is_killed(tmp_path: Path) -> None:
    with make_job(tmp_path, 10**6) as job:
        job.await_that(lambda: job.newest_checkpoint() >= 5, "no checkpoint")
    # The block has killed torchrun.
    deadline_s = time.monotonic() + 60
    while job.left_over():
        assert time.monotonic() < deadline_s, job.left_over()
        time.sleep(0.1)
    summary = Summary.read(job.folder.summary)
    assert summary.ended_by == "stop requested"
    assert summary.check_identities() == []
    assert job.newest_checkpoint() == summary.steps
    assert list((tmp_path / "tmp").glob("osynclr-*")) == []


def test_a_run_goes_on_with_other_numbers_of_trainers_and_generators(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    steps = 0
    for num_trainers, num_generators in ((1, 1), (2, 1), (1, 2)):
        steps += 4
        run = torchrun(
            run_dir,
            *SYNTHETIC,
            f"topology.trainers={num_trainers}",
            f"topology.generators={num_generators}",
            "trainer.resize_on_resume=true",
            f"trainer.steps={steps}",
            nproc=num_trainers + num_generators,
        )
        assert run.code == 0, run.output
        summary = Summary.read(run_dir / "summary.json")
        assert summary.check_identities() == []
        assert (summary.steps, summary.group_uses) == (steps, steps * BATCH_GROUPS)
    refused = torchrun(
        run_dir,
        *SYNTHETIC,
        "topology.trainers=2",
        "topology.generators=1",
        "trainer.steps=16",
        nproc=3,
    )
    assert refused.code != 0
    said = "the checkpoint is of 1 trainers and this run has 2; set trainer.resize_on_resume=true"
    assert refused.output.count(said) == 1
    assert "[rank" not in refused.output, "no traceback of a rank; torchrun has one of its own"
