"""Folders of sockets: private, held while their process lives, removed once it does not."""

import stat
import subprocess
import sys
from pathlib import Path

from online_synclr.paths import PROJECT_DIR
from online_synclr.stream.endpoints import ipc_endpoint
from online_synclr.stream.socket_folder import PREFIX, SocketFolder, remove_abandoned

HOLD = """
import sys
from pathlib import Path
from online_synclr.stream.socket_folder import SocketFolder
folder = SocketFolder(Path(sys.argv[1]))
(folder.path / "groups").write_text("")
print(folder.path, flush=True)
sys.stdin.read()
"""


def holder(parent: Path) -> tuple["subprocess.Popen[str]", Path]:
    """Another process that holds a folder under `parent`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_DIR,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_removed(tmp_path: Path) -> None:
    folder = SocketFolder(tmp_path)
    assert folder.path.name.startswith(PREFIX)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_the_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    living, held = holder(tmp_path)
    killed, left_over = holder(tmp_path)
    try:
        killed.kill()
        killed.wait()
        (tmp_path / "another-folder").mkdir()
        assert left_over.is_dir()
        assert remove_abandoned(tmp_path) == 1
        assert not left_over.exists()
        assert (held / "groups").exists(), "its process lives"
        assert (tmp_path / "another-folder").is_dir()
    finally:
        living.kill()
        living.wait()


def test_the_next_trainer_clears_away_and_so_does_one_that_leaves(tmp_path: Path) -> None:
    process, left_over = holder(tmp_path)
    process.kill()
    process.wait()
    endpoint = ipc_endpoint(tmp_path)
    assert not left_over.exists(), "at the start"
    process, left_over = holder(tmp_path)
    process.kill()
    process.wait()
    endpoint.remove()
    assert list(tmp_path.iterdir()) == [], "at the end"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    assert remove_abandoned(tmp_path) == 0
    assert precious.is_dir()


def test_a_parent_that_does_not_exist_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_abandoned(tmp_path / "none") == 0
