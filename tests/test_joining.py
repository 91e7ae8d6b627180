"""Generators that torchrun has not started: how they find the job, join it, leave, come back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from generators.bootstrap import FixedAddress, FromRunFolder, find_bootstrap
from generators.names import claimed_name, default_name
from online_synclr.config import ConfigError
from online_synclr.paths import PROJECT_DIR
from online_synclr.run_folder import RunFolder
from online_synclr.stream.endpoints import tcp_endpoint
from online_synclr.stream.errors import StreamRejected
from online_synclr.stream.join import RunOverError, ask_for_place
from online_synclr.stream.keys import KeyFolder, load_generator_key
from online_synclr.stream.messages import Join
from online_synclr.stream.receiver import Receiver
from tests.generator_runs import Pool
from tests.stream_ends import LONG_S, receiving
from tests.stream_helpers import RUN_ID, SHAPE, FakeSink
from tests.torchrun import environment

JOIN = Join(generator_id="lab", image_shape=SHAPE)
OURS = ("captions.backend=template", "images.backend=synthetic", "images.per_caption=2")
IMAGES = (2, 3, 16, 16)


def never() -> bool:
    return False


def ask(receiver: Receiver, join: Join = JOIN) -> object:
    return ask_for_place(receiver.address, join, key=None, stopping=never)


def test_a_place_is_given_at_a_trainers_address() -> None:
    with receiving(FakeSink(), incarnation=4, num_launched=3) as receiver:
        receiver.set_addresses(["ipc:///first", receiver.address])
        ticket = ask_for_place(receiver.address, JOIN, key=None, stopping=never)
    assert ticket is not None
    assert (ticket.run_id, ticket.incarnation, ticket.number) == (RUN_ID, 4, 3)
    assert ticket.addresses == ["ipc:///first", receiver.address]


def test_who_does_not_fit_is_told_why() -> None:
    with receiving(FakeSink()) as receiver:
        receiver.set_addresses([receiver.address])
        with pytest.raises(StreamRejected, match=r"images\.per_caption"):
            ask(receiver, Join(generator_id="lab", image_shape=(5, *SHAPE[1:])))


def test_a_place_says_the_size_that_the_run_has_now() -> None:
    with receiving(FakeSink()) as receiver:
        receiver.set_addresses([receiver.address])
        other = Join(generator_id="lab", image_shape=(*SHAPE[:2], 999, 999))
        ticket = ask_for_place(receiver.address, other, key=None, stopping=never)
    assert ticket is not None
    assert ticket.image_shape == SHAPE


def test_the_end_of_the_run_ends_the_asking() -> None:
    with receiving(FakeSink()) as receiver:
        receiver.set_addresses([receiver.address])
        receiver.announce_end("all steps done")
        with pytest.raises(RunOverError, match="all steps done"):
            ask(receiver)


def test_a_job_that_stops_for_now_is_waited_for() -> None:
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    with receiving(FakeSink()) as receiver:
        receiver.set_addresses([receiver.address])
        receiver.announce_end("stop requested", final=False)
        assert ask_for_place(receiver.address, JOIN, key=None, stopping=stopping) is None


def test_a_place_needs_a_key_of_that_name(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path / "keys")
    keys.make(["lab", "other"])
    with receiving(FakeSink(), tcp_endpoint(), keys=keys) as receiver:
        receiver.set_addresses([receiver.address])
        key = load_generator_key(keys.generator("lab"))
        assert ask_for_place(receiver.address, JOIN, key=key, stopping=never) is not None
        key = load_generator_key(keys.generator("other"))
        with pytest.raises(StreamRejected, match="not one for a generator named 'lab'"):
            ask_for_place(receiver.address, JOIN, key=key, stopping=never)


def test_connect_takes_addresses_and_run_folders(tmp_path: Path) -> None:
    assert find_bootstrap("tcp://10.0.0.1:5555") == FixedAddress("tcp://10.0.0.1:5555")
    assert find_bootstrap("node7:5555") == FixedAddress("tcp://node7:5555")
    assert find_bootstrap("ipc:///tmp/x/groups") == FixedAddress("ipc:///tmp/x/groups")
    folder = find_bootstrap(str(tmp_path))
    assert folder == FromRunFolder(tmp_path)
    assert folder.address() is None
    known = {"run_id": "r", "incarnation": 1, "addresses": ["ipc:///a", "ipc:///b"]}
    RunFolder(tmp_path).addresses.write_text(json.dumps(known))
    assert folder.address() == "ipc:///a"
    for wrong in ("nowhere", "runs/none", "tcp://host", "host:port", "host:99999"):
        with pytest.raises(ConfigError, match="--connect"):
            find_bootstrap(wrong)


def test_names_on_one_machine_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with claimed_name("lab.a", number=True) as first, claimed_name("lab.a", number=True) as second:
        assert (first, second) == ("lab.a", "lab.a.2")
        with (
            pytest.raises(ConfigError, match=r"lab\.a runs on this machine"),
            claimed_name("lab.a", number=False),
        ):
            pass
    with pytest.raises(ConfigError, match="--name=lab/a"), claimed_name("lab/a", number=True):
        pass
    with claimed_name("lab.a", number=False) as again:
        assert again == "lab.a"
    assert default_name("lab").startswith("lab.")


@contextlib.contextmanager
def generator(connect: str, run_dir: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """The real command; it is ended, by force if need be, with the block."""
    command = [
        *(sys.executable, "-m", "online_synclr", "generate", "--connect", connect),
        *("--name", "lab", f"run.dir={run_dir}", "images.send_px=16", "images.render_px=16"),
        *("stream.heartbeat_s=0.2", "generators.goodbye_s=2", *OURS, *more),
    ]
    process = subprocess.Popen(
        command, cwd=PROJECT_DIR, env=environment(), text=True, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def trainer(
    folder: Path, incarnation: int, pool: Pool, shape: tuple[int, int, int, int] = IMAGES
) -> Iterator[Receiver]:
    """One attempt of a job, as far as a generator can see it."""
    place = RunFolder(folder)
    with receiving(pool, image_shape=shape, incarnation=incarnation) as receiver:
        receiver.set_addresses([receiver.address])
        known = {"run_id": RUN_ID, "incarnation": incarnation, "addresses": [receiver.address]}
        place.addresses.write_text(json.dumps(known))
        yield receiver


def said(process: "subprocess.Popen[str]") -> str:
    _, err = process.communicate(timeout=LONG_S)
    return err


def test_a_generator_joins_delivers_and_leaves_on_a_signal(tmp_path: Path) -> None:
    pool = Pool()
    with trainer(tmp_path, 1, pool) as receiver, generator(str(tmp_path), tmp_path) as process:
        assert pool.wait_for(8, LONG_S)
        process.send_signal(signal.SIGTERM)
        err = said(process)
        assert process.returncode == 0, err
        (view,) = receiver.peers()
        assert (view.generator_id, view.connection, view.lost) == ("lab", "ended", 0)
        assert view.sent == view.received == len(pool.groups)
    assert "joined run run-1, attempt 1, as number 0" in err
    assert err.rstrip().endswith("lab: left")
    assert {group.recipe.incarnation for group in pool.groups} == {1}


def test_it_comes_back_to_a_job_that_was_restarted_and_ends_with_the_run(tmp_path: Path) -> None:
    """The last time to a larger size, as in a high-resolution phase."""
    pools = [Pool(), Pool(), Pool()]
    larger = (*IMAGES[:2], 24, 24)
    phase = ("steps=10", "send_px=24", "render_px=24")
    settings = [f"trainer.high_resolution.{setting}" for setting in phase]
    with generator(str(tmp_path), tmp_path, *settings) as process:
        with trainer(tmp_path, 1, pools[0]):
            assert pools[0].wait_for(4, LONG_S)
            # Killed: not a word.
        with trainer(tmp_path, 2, pools[1]) as receiver:
            # The address file names the new attempt; the old one's is silent for good.
            assert pools[1].wait_for(4, LONG_S)
            receiver.announce_end("stop requested", final=False)
            assert receiver.drain(LONG_S)
        with trainer(tmp_path, 3, pools[2], larger) as receiver:
            assert pools[2].wait_for(4, LONG_S)
            receiver.announce_end("all steps done")
            err = said(process)
    assert process.returncode == 0, err
    assert err.count("joined run run-1") == 3
    assert err.rstrip().endswith("lab: the run is finished")
    keys = {
        (recipe.incarnation, recipe.stream, recipe.counter)
        for pool in pools
        for recipe in (group.recipe for group in pool.groups)
    }
    assert len(keys) == sum(len(pool.groups) for pool in pools)


def test_a_run_folder_tells_that_the_run_is_over(tmp_path: Path) -> None:
    known = {"run_id": "r", "addresses": ["ipc:///a"], "finished": "all steps done"}
    RunFolder(tmp_path).addresses.write_text(json.dumps(known))
    assert FromRunFolder(tmp_path).finished("r") == "all steps done"
    assert FromRunFolder(tmp_path).finished("another") is None
    assert FixedAddress("tcp://node7:5555").finished("r") is None


def test_a_folder_of_locks_that_others_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / f"online_synclr-{os.getuid()}"
    folder.symlink_to(elsewhere)
    with (
        pytest.raises(ConfigError, match="not a folder of this user"),
        claimed_name("lab", number=True),
    ):
        pass
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    folder.mkdir(mode=0o755)
    with claimed_name("lab", number=True):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_host_named_like_torchruns_generators_gets_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "g7.cluster")
    assert default_name(None) == "host-g7"
    assert default_name("lab") == "lab.g7"
