"""Whole runs from the command line, with stand-in engines: every split, resume, two nodes."""

import math
import signal
import socket
from pathlib import Path

import psutil
import pytest

from online_synclr.ledger.reading import kept_entries, read_ledger
from online_synclr.ledger.totals import count_ledger
from tests.torchrun import (
    SYNTHETIC,
    Finished,
    assert_accounts_balance,
    standalone,
    start_torchrun,
    torchrun,
)

pytestmark = pytest.mark.slow

ONE_TRAINER = ("topology.trainers=1", "topology.generators=1")
TWO_SHARDED = (
    "topology.trainers=2",
    "topology.generators=1",
    "trainer.parallel=fsdp",
    "trainer.optimizer.name=adamw",
)


def num_ranks(how: tuple[str, ...]) -> int:
    """Of a split given as overrides."""
    return sum(int(text.split("=")[1]) for text in how if text.startswith("topology."))


def check_run(run: Finished, steps: int) -> None:
    assert run.code == 0, run.output
    summary = run.summary
    assert summary["steps"] == steps
    assert_accounts_balance(summary)
    assert summary["groups_lost"] == 0
    assert summary["groups_discarded"] == 0
    losses = [row["loss/total"] for row in run.metrics if "loss/total" in row]
    assert len(losses) >= 1
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(("generators", "trainers"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_every_split_runs(generators: int, trainers: int, tmp_path: Path) -> None:
    run = torchrun(
        tmp_path / "run",
        *SYNTHETIC,
        f"topology.generators={generators}",
        f"topology.trainers={trainers}",
        "trainer.batch_groups=12",
        "trainer.steps=6",
        nproc=generators + trainers,
    )
    check_run(run, steps=6)
    assert run.summary["group_uses"] == 6 * 12
    assert "SYNTHETIC" in run.output.upper()


def test_two_nodes_one_of_them_generators_only(tmp_path: Path) -> None:
    """Two launchers on loopback, each with a split of its own, over tcp."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_dir = tmp_path / "run"
    splits = (("1", "1"), ("2", "0"))
    launchers = []
    for node, (generators, trainers) in enumerate(splits):
        launcher = (
            "--nnodes=2",
            f"--node_rank={node}",
            "--nproc_per_node=2",
            "--master_addr=127.0.0.1",
            f"--master_port={port}",
        )
        overrides = (
            *SYNTHETIC,
            f"topology.generators={generators}",
            f"topology.trainers={trainers}",
            "stream.transport=tcp",
            # Slow enough for every generator to report while the trainer takes its steps.
            "images.rate_images_per_s=20",
            "stream.heartbeat_s=0.2",
            "trainer.steps=16",
        )
        launchers.append(start_torchrun(run_dir, overrides, launcher))
    outputs = [launcher.communicate(timeout=240)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(outputs)
    check_run(Finished(0, outputs[0], run_dir), steps=16)
    shares = Finished(0, "", run_dir).summary["generator_shares"]
    assert set(shares) == {"g0", "g1", "g2"}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("how", [ONE_TRAINER, TWO_SHARDED], ids=["one trainer", "two sharded"])
def test_a_restart_continues_with_noise_never_used_before(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    run_dir = tmp_path / "run"
    nproc = num_ranks(how)
    how = (*how, "monitor.knn_folder=check_set")
    first = torchrun(run_dir, *SYNTHETIC, *how, "trainer.steps=4", nproc=nproc)
    check_run(first, steps=4)
    second = torchrun(run_dir, *SYNTHETIC, *how, "trainer.steps=8", nproc=nproc)
    check_run(second, steps=8)
    assert (run_dir / "incarnation").read_text() == "2"
    steps = [row["step"] for row in second.metrics if "loss/total" in row]
    assert steps == list(range(1, 9))
    measured = [row["step"] for row in second.metrics if "knn/accuracy" in row]
    assert measured == [0, 4, 8], "before the first step and after each attempt's last"


def test_trainers_go_on_with_one_generator_and_name_what_ended_the_other(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    overrides = (
        *SYNTHETIC,
        "topology.generators=2",
        "images.rate_images_per_s=20",
        "stream.heartbeat_s=0.2",
        "generators.restarts_per_hour=0",
        "trainer.steps=30",
    )
    launcher = start_torchrun(run_dir, overrides, standalone(3))
    assert launcher.stdout is not None
    output = []
    for line in launcher.stdout:
        output.append(line)
        if "first step after" in line:
            break
    engine = next(
        process
        for process in psutil.Process(launcher.pid).children(recursive=True)
        if "generators.engine" in process.cmdline()
    )
    engine.kill()
    output.append(launcher.communicate(timeout=240)[0])
    run = Finished(launcher.returncode, "".join(output), run_dir)
    assert run.code == 0, run.output
    assert run.summary["steps"] == 30
    assert_accounts_balance(run.summary)
    ((generator, (failed, out)),) = run.summary["failures"].items()
    assert (failed["kind"], failed["engine_start"], out["kind"]) == ("failed", 0, "out")
    assert "SIGKILL" in failed["message"]
    assert f"generator {generator}, engine start 0, failed: {failed['message']}" in run.output
    assert f"failed     {generator}: 2 times, first: {failed['message']}" in run.output


def test_a_run_that_refuses_too_much_says_so(tmp_path: Path) -> None:
    """Half of the stand-in's groups have a picture flatter than this."""
    run = torchrun(tmp_path / "run", *SYNTHETIC, "images.min_contrast=50", "trainer.steps=40")
    check_run(run, steps=40)
    (alarm,) = run.summary["quality_alarms"]
    assert "groups of g0 were refused, 100 % of those for 'low_contrast'" in alarm
    assert alarm.startswith("QUALITY: ")
    assert alarm in run.output
    gated, rendered = run.summary["groups_gated"], run.summary["groups_rendered"]
    assert set(gated) == {"low_contrast"}
    assert run.summary["groups_sent"] <= rendered - gated["low_contrast"]
    shares = [row["groups/share_rejected"] for row in run.metrics if "loss/total" in row]
    assert max(shares) > 0.2
    assert f"low_contrast {gated['low_contrast']}" in run.output


def test_a_second_run_trains_from_the_ledger_of_the_first(tmp_path: Path) -> None:
    """Two generators share it; stopped, continued by one, and ended by the ledger's end."""
    first = torchrun(tmp_path / "a", *SYNTHETIC, "trainer.steps=8", "trainer.batch_groups=8")
    check_run(first, steps=8)
    source = [entry.fact.recipe for entry in kept_entries(read_ledger(first.run_dir).attempts)]
    assert len(source) == first.summary["groups_trained"]

    again = (
        *SYNTHETIC,
        "captions.backend=ledger",
        f"captions.ledger={first.run_dir}",
        "run.seed=3",
        "trainer.batch_groups=8",
    )
    half = ("topology.generators=2", "trainer.steps=3", "pool.samples_per_insert=1")
    run = torchrun(tmp_path / "b", *again, *half, nproc=3)
    check_run(run, steps=3)
    run = torchrun(tmp_path / "b", *again, "trainer.steps=100000", "pool.samples_per_insert=1")
    assert run.code == 0, run.output
    assert "(captions.ledger) is used up" in run.summary["ended_by"]
    assert_accounts_balance(run.summary)

    totals = count_ledger(read_ledger(run.run_dir))
    assert (totals.groups, totals.uses) == (
        run.summary["groups_trained"],
        run.summary["group_uses"],
    )
    assert (totals.duplicates, totals.repeated_noise, len(totals.attempts)) == (0, 0, 2)
    trained = [entry.fact.recipe for entry in kept_entries(read_ledger(run.run_dir).attempts)]
    captions = {recipe.own_key: recipe.caption for recipe in source}
    assert all(captions[recipe.noise_key] == recipe.caption for recipe in trained)
    assert 0 <= len(source) - len(trained) < 8, "but for less than a batch, all of it"


@pytest.mark.parametrize("how", [ONE_TRAINER, TWO_SHARDED], ids=["one trainer", "two sharded"])
def test_a_stop_signal_ends_with_a_checkpoint(tmp_path: Path, how: tuple[str, ...]) -> None:
    run_dir = tmp_path / "run"
    overrides = (*SYNTHETIC, *how, "trainer.steps=1000000")
    launcher = start_torchrun(run_dir, overrides, standalone(num_ranks(how)))
    assert launcher.stdout is not None
    output = []
    for line in launcher.stdout:
        output.append(line)
        if (run_dir / "metrics.jsonl").exists() and (run_dir / "metrics.jsonl").stat().st_size:
            break
    launcher.send_signal(signal.SIGTERM)
    output.append(launcher.communicate(timeout=120)[0])
    assert (run_dir / "summary.json").exists(), "".join(output)
    summary = Finished(0, "", run_dir).summary
    assert 0 < summary["steps"] < 1_000_000
    assert_accounts_balance(summary)
    assert list((run_dir / "checkpoints").iterdir())
