"""The command line of `evaluate`: options, results, failures, interruption, several ranks."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from evaluation import evaluate as work
from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.ranks import Ranks, RanksApartError
from evaluation.tasks import knn as knn_task
from online_synclr.__main__ import main
from online_synclr.paths import PROJECT_DIR
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone
from tests.torchrun import environment


def fake_backbone(name: str, *, image_px: int | None = None) -> FrozenBackbone:
    """Named by a seed."""
    if not name.isdigit():
        raise EvaluationError(f"there is no backbone {name}; name one that is there.")
    return tiny_backbone(f"seed {name}", int(name))


def fake_data(name: str) -> MemoryData:
    if name == "broken":
        return MemoryData({"train": MemorySplit(70, bad_at=65)}, name)
    if name == "nowhere":
        raise EvaluationError("nowhere is no data set; make it first.")
    if name == "endless":
        return MemoryData({"train": MemorySplit(10**7)}, name)
    splits = {"train": MemorySplit(70), "test": MemorySplit(40, seed=1)}
    return MemoryData(splits, name)  # type: ignore[arg-type]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(work, "load_backbone", fake_backbone)
    monkeypatch.setattr(knn_task, "load_data", fake_data)
    monkeypatch.setenv("ONLINE_SYNCLR_CACHE", str(tmp_path / "cache"))


def evaluate(*words: str) -> int:
    return main(["evaluate", "--device", "cpu", "--threads", "1", *words])


def results(folder: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return loaded


@pytest.mark.usefixtures("fakes")
def test_several_backbones_give_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("0", "1", "--task", "knn", "--data", "one", "--data", "two", "--out", str(out))
    assert evaluate(*words) == 0
    said = capsys.readouterr()
    header, _, first, second = said.out.splitlines()[2:6]
    assert header.count(" %") == 4, "two data sets, two numbers of neighbours"
    assert "seed 0" in first
    assert "seed 1" in second
    records = results(out)
    assert [(one["backbone"], one["data"]) for one in records] == [
        ("seed 0", "one"),
        ("seed 0", "two"),
        ("seed 1", "one"),
        ("seed 1", "two"),
    ]
    assert set(records[0]["metrics"]) == {"top1_k10", "top1_k20"}
    assert records[0]["command"].startswith("evaluate --device cpu")
    assert records[0]["identity"] == tiny_backbone(seed=0).identity
    assert set(records[0]["versions"]) >= {"torch", "timm", "online_synclr"}
    assert (out / "results.md").exists()
    assert (out / "results.png").exists()
    assert (tmp_path / "cache" / "features").is_dir(), "the user's cache, where none is named"


@pytest.mark.usefixtures("fakes")
def test_a_backbone_that_fails_costs_the_others_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("gone", "1", "--task", "knn", "--data", "broken", "--data", "one")
    assert evaluate(*words, "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert "online_synclr: gone: there is no backbone gone; name one that is there.\n" in said
    assert "online_synclr: seed 1: image 65 cannot be read.\n" in said
    assert [(one["backbone"], one["data"]) for one in results(out)] == [("seed 1", "one")]


@pytest.mark.usefixtures("fakes")
def test_a_fault_is_shown_whole_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str, *, image_px: int | None = None) -> FrozenBackbone:
        if name == "0":
            raise ZeroDivisionError("a fault in the code")
        return fake_backbone(name)

    monkeypatch.setattr(work, "load_backbone", fails)
    out = tmp_path / "out"
    assert evaluate("0", "1", "--task", "knn", "--data", "one", "--out", str(out)) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "online_synclr: 0: ZeroDivisionError: a fault in the code\n" in said
    assert [one["backbone"] for one in results(out)] == ["seed 1"]


@pytest.mark.usefixtures("fakes")
def test_a_full_disk_takes_no_result_from_the_console(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("evaluation.report.folder.write_durably", full)
    assert evaluate("0", "--task", "knn", "--data", "one", "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "seed 0" in said.out
    assert "results cannot be written" in said.err


@pytest.mark.usefixtures("fakes")
def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    assert evaluate("0", "--task", "knn", "--data", "one", "--no-cache") == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["0", "--data", "one"], "--task is needed; there are"),
        (["0", "--task", "knm"], "--task=knm: there are"),
        (["0", "--task", "knn"], "needs --data"),
        (["--task", "knn", "--data", "one"], "BACKBONE"),
        (["0", "--task", "knn", "--data", "nowhere"], "nowhere is no data set; make it first."),
        (["gone", "--task", "knn", "--data", "one"], "there is no backbone gone"),
        (["0", "--task", "knn", "--data", "one", "--neighbours", "x"], "--neighbours"),
        (["0", "--task", "knn", "--data", "one", "--batch-images", "0"], "--batch-images=0"),
        (["0", "--task", "knn", "--data", "one", "--crop-pct", "2"], "--crop-pct"),
        (["0", "--task", "knn", "--data", "one", "--device", "tpu"], "--device=tpu"),
        (["0", "--task", "knn", "--data", "one", "--out", "/proc/nowhere"], "--out=/proc/nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*words) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.usefixtures("fakes")
def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert evaluate("0", "--task", "knn", "--data", "one", "--device", "cuda:1") == 2
    assert capsys.readouterr().err.startswith("online_synclr: --device=cuda:1, but torch sees 0")


def test_help_shows_the_options_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        evaluate("--task", "knn", "--help")
    assert "--neighbours" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        evaluate("--help")
    said = capsys.readouterr().out
    assert "--neighbours" not in said
    assert "knn" in said


def test_the_command_loads_torch_only_for_its_work() -> None:
    """Refusing an option takes no second."""
    code = (
        "import sys\nfrom online_synclr.__main__ import main\n"
        "assert main(['evaluate', 'x', '--task', 'nothing']) == 2\n"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_DIR, capture_output=True)


ON_RANKS = """
import signal
import sys
from evaluation import evaluate as work
from evaluation.tasks import knn as knn_task
from online_synclr.__main__ import main
from tests import test_evaluate_command as fakes

# A shell that starts the tests in its background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
work.load_backbone, knn_task.load_data = fakes.fake_backbone, fakes.fake_data
sys.exit(main(["evaluate", "--device", "cpu", "--threads", "1", *sys.argv[1:]]))
"""


def on_ranks(tmp_path: Path, num_ranks: int, *words: str) -> "subprocess.Popen[str]":
    script = tmp_path / "on_ranks.py"
    script.write_text(ON_RANKS)
    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    return subprocess.Popen(
        [sys.executable, *(ranks if num_ranks > 1 else []), str(script), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT_DIR,
        env={**environment(), "ONLINE_SYNCLR_CACHE": str(tmp_path / "cache")},
        start_new_session=True,
    )


@pytest.mark.slow
def test_torchrun_gives_what_one_rank_gives(tmp_path: Path) -> None:
    words = ("gone", "1", "--task", "knn", "--data", "broken", "--data", "one", "--no-cache")
    outs = {}
    for num_ranks in (1, 2):
        outs[num_ranks] = tmp_path / str(num_ranks)
        process = on_ranks(tmp_path, num_ranks, *words, "--out", str(outs[num_ranks]))
        said = process.communicate(timeout=240)[1]
        assert said.count("online_synclr: gone: there is no backbone gone") == 1, said
        assert said.count("online_synclr: seed 1: image 65 cannot be read.") == 1, said
        assert "evaluation/" not in said, "no traceback of this project's"
    one, two = (results(outs[num_ranks])[0] for num_ranks in (1, 2))
    assert one["metrics"] == two["metrics"]
    assert (one["num_ranks"], two["num_ranks"]) == (1, 2)


@pytest.mark.slow
def test_ctrl_c_leaves_one_line(tmp_path: Path) -> None:
    """While features are read by workers: the signal goes to all of the foreground's processes."""
    words = ("0", "--task", "knn", "--data", "endless", "--threads", "8")
    process = on_ranks(tmp_path, 1, *words)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "to compute" in first
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(120) == 130
    assert rest == (
        "online_synclr: evaluate: interrupted; what is finished is kept, and the same command goes "
        "on from there.\n"
    )


def test_ranks_hear_of_each_others_failures() -> None:
    store = dist.HashStore()
    first, second = Ranks(store, 0, 2), Ranks(store, 1, 2)
    heard: list[str] = []
    thread = threading.Thread(target=lambda: heard.extend([second.agree(""), second.agree("b")]))
    thread.start()
    assert first.agree("") == ""
    assert first.agree("a") == "a"
    thread.join()
    assert heard == ["", "a"], "everybody hears the first one's"
    assert Ranks(None, 0, 1).agree("alone") == "alone"


def test_a_rank_that_fails_alone_ends() -> None:
    """The other is in a collective for ever, and hears nothing."""
    failed = Ranks(dist.HashStore(), 0, 2, grace_s=0.0)
    with pytest.raises(RanksApartError, match="only here"):
        failed.agree("only here")


@pytest.mark.usefixtures("fakes")
def test_a_rank_that_fails_alone_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def joined(*_: object) -> Iterator[tuple[Bench, Ranks]]:
        bench = Bench(device=torch.device("cpu"), rank=1, num_ranks=2)
        yield bench, Ranks(dist.HashStore(), 1, 2, grace_s=0.0)

    monkeypatch.setattr(work, "joined", joined)
    assert evaluate("gone", "--task", "knn", "--data", "one") == 1
    said = capsys.readouterr().err
    assert "failed, and the others did not: there is no backbone gone" in said.replace("gone: ", "")
