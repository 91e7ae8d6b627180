"""Wrong input: one clear line, exit code 2, quickly."""

import subprocess
import sys
from pathlib import Path

import pytest

from online_synclr import __main__ as main_module
from online_synclr.config import load_config
from online_synclr.launch import RankFailedError, run_rank
from online_synclr.paths import CONFIGS_DIR, PROJECT_DIR
from online_synclr.topology import RankEnv
from tests.torchrun import environment


def run_plain(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "online_synclr", "--config", "configs/demo.yaml", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT_DIR,
        env={**environment(), **env},
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("mode", [("--dry-run",), ()], ids=["dry-run", "run"])
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["--stepz", "3"], "--stepz"),
        (["trainer.step=3"], "did you mean trainer.steps"),
        (["images.model=/no/such/folder"], "images.model"),
        (["topology.generators=3", "--nproc_per_node=2"], "--nproc_per_node=4"),
        (["trainer.images_per_group=1"], "positive"),
        (["pool.error_buffer=0.1"], "pool.error_buffer"),
        (["run.dir=/proc/nowhere"], "run.dir"),
    ],
    ids=["option", "key", "model", "ranks", "positives", "limiter", "folder"],
)
def test_wrong_input_gets_one_line(
    mode: tuple[str, ...], overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    done = run_plain(f"run.dir={tmp_path}", *overrides, *mode)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_only_the_first_rank_of_a_node_speaks(tmp_path: Path) -> None:
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    first = run_plain("nonsense=1", RANK="0", LOCAL_RANK="0", **ranks)
    second = run_plain("nonsense=1", RANK="1", LOCAL_RANK="1", **ranks)
    assert (first.returncode, second.returncode) == (2, 2)
    assert "nonsense" in first.stderr
    assert second.stderr == ""


def test_other_nodes_may_have_other_numbers_of_trainers(tmp_path: Path) -> None:
    """Five nodes, of which this one has a trainer: not five trainers for a batch of twelve."""
    settings = ["topology.trainers=1", "topology.generators=1", f"run.dir={tmp_path}"]
    arguments = main_module._parser().parse_intermixed_args(
        ["--config", str(CONFIGS_DIR / "demo.yaml"), *settings]
    )
    env = RankEnv(
        rank=0,
        local_rank=0,
        world_size=10,
        local_world_size=2,
        node=0,
        num_nodes=5,
        restart_count=0,
        under_torchrun=True,
    )
    assert main_module._load(arguments, env).trainer.batch_groups == 12


@pytest.mark.parametrize("captions", ["bank", "server"])
def test_a_generator_refuses_its_settings_before_it_meets_the_others(
    captions: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank = tmp_path / "bank.yaml"
    bank.write_text("sources: {}")
    wrong = {"bank": f"captions.bank={bank}", "server": "captions.server=per_node"}
    sentence = {"bank": r"captions\.bank: ", "server": r"captions\.server=per_node needs"}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("generators.language.server_process.find_spec", lambda _: None)
    config = load_config(CONFIGS_DIR / "demo.yaml", [f"run.dir={tmp_path}", wrong[captions]])
    env = RankEnv.from_environ(
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    )
    with pytest.raises(RankFailedError, match=sentence[captions]) as caught:
        run_rank(config, env, 0.0)
    assert (caught.value.exit_code, caught.value.spokesman) == (2, True)


def test_a_dry_run_shows_the_settings_and_the_ranks(tmp_path: Path) -> None:
    done = run_plain(f"run.dir={tmp_path}", "--dry-run", "images.steps=7")
    assert done.returncode == 0, done.stderr
    assert "steps: 7" in done.stdout
    assert done.stdout.count("trainer  ") >= 1
    assert done.stdout.count("generator") >= 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["topology.generators=2", "topology.trainers=2"], "topology.trainers=2 but"),
        (["captions.server=per_node", "captions.vllm.server_device=1"], "GPUs are 0 to 0"),
    ],
)
def test_a_dry_run_knows_the_gpus(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    done = run_plain(f"run.dir={tmp_path}", "--dry-run", *overrides, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_importing_the_settings_is_quick() -> None:
    """Processor time, best of five processes: a busy machine must not fail this."""
    code = (
        "import time; t = time.process_time(); import online_synclr.config; "
        "print(time.process_time() - t)"
    )
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(5)
    ]
    assert min(times) < 0.3
