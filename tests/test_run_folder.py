"""The run folder's identity and incarnation."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from online_synclr.config import ConfigError
from online_synclr.run_folder import RunFolder, incarnation_of, write_durably


def test_identity_is_kept_and_incarnation_raised(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    first = folder.run_id()
    assert folder.raise_incarnation() == 1
    again = RunFolder(tmp_path / "run")
    assert again.run_id() == first
    assert again.raise_incarnation() == 2


def test_a_run_from_another_folders_checkpoint_shares_no_seeds_with_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step_00000010"
    checkpoint.mkdir()
    assert incarnation_of(checkpoint) == 0
    (checkpoint / "incarnation").write_text("7\n")
    folder = RunFolder(tmp_path / "run")
    folder.create()
    assert folder.raise_incarnation(incarnation_of(checkpoint)) == 8
    assert folder.raise_incarnation() == 9


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    with folder.lock(), pytest.raises(ConfigError, match="in use"):
        folder.lock()
    folder.lock().close()


def test_a_lock_is_waited_for_while_its_holder_leaves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    held = folder.lock()
    leaving = threading.Timer(0.3, held.close)
    leaving.start()
    folder.lock(patience_s=60.0).close()
    leaving.join()


def test_a_killed_process_lets_the_folder_go(tmp_path: Path) -> None:
    RunFolder(tmp_path).create()
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from online_synclr.run_folder import RunFolder\n"
        f"handle = RunFolder(Path({str(tmp_path)!r})).lock()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    RunFolder(tmp_path).lock().close()


def test_write_durably_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_durably(path, "1")
    write_durably(path, "2")
    assert path.read_text() == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value"]


def test_what_a_dead_attempt_was_about_to_rename_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    for path in (tmp_path / ".incarnation.77.tmp", folder.samples / ".groups_000000005.png.8.tmp"):
        path.write_text("half")
    (tmp_path / ".notes").write_text("somebody's")
    folder.remove_leftovers()
    assert list(folder.samples.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [".notes"]
