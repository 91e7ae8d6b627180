"""Strangers at a trainer's door: none gets in, each kind is said once, others are not disturbed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from online_synclr.stream import link
from online_synclr.stream.control import ControlClient
from online_synclr.stream.doorman import SAYINGS
from online_synclr.stream.endpoints import tcp_endpoint
from online_synclr.stream.errors import StreamRejected
from online_synclr.stream.keys import GeneratorKey, KeyFolder, KeysError, load_generator_key
from online_synclr.stream.messages import Hello
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.sender import Sender
from tests.stream_ends import (
    RawDealer,
    adds_up,
    put_all,
    receiving,
    seen,
    sending,
    wait_until,
)
from tests.stream_helpers import FakeSink, make_hello

NOBODY = 65534


@dataclass(frozen=True)
class Door:
    """A trainer behind keys, while one generator of its run, g0, is connected."""

    keys: KeyFolder
    said: list[str]
    sink: FakeSink
    receiver: Receiver
    friend: Sender

    @property
    def strangers(self) -> dict[str, int]:
        return self.receiver.counters().strangers

    def serves_its_friend(self, counters: range) -> None:
        """Groups of the run's own generator still arrive, and nobody else's ever did."""
        put_all(self.friend, counters)
        wait_until(lambda: len(seen(self.sink)) == counters.stop)
        assert seen(self.sink) == list(range(counters.stop))
        assert [view.generator_id for view in self.receiver.peers()] == ["g0"]
        assert adds_up(self.receiver)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder(tmp_path / "keys")
    folder.make(["spot"])
    return folder


@pytest.fixture
def door(keys: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(link, "FAILED_HANDSHAKES_S", 0.0)
    said: list[str] = []
    sink = FakeSink()
    endpoint = tcp_endpoint("127.0.0.1", guarded=True)
    friends_key = load_generator_key(keys.generator("ranks"))
    with (
        receiving(sink, endpoint, keys=keys, say=said.append) as receiver,
        sending(receiver.address, make_hello("g0"), key=friends_key) as friend,
    ):
        door = Door(keys, said, sink, receiver, friend)
        door.serves_its_friend(range(3))
        yield door


def _refused(door: Door, hello: Hello, key: GeneratorKey | None, words: str) -> None:
    """A sender with that key is told why, and gives up."""
    with (
        sending(door.receiver.address, hello, key=key) as sender,
        pytest.raises(StreamRejected, match=words),
    ):
        put_all(sender, range(99, 10**6))


def _counted_and_said_once(door: Door, reason: str) -> None:
    # One that gives up may be about to connect again: that attempt is broken off.
    wait_until(lambda: reason in door.strangers)
    assert set(door.strangers) <= {reason, "handshake"}
    said = [text for text in door.said if SAYINGS["handshake"] not in text]
    assert [SAYINGS[reason] in text for text in said] == [True]


def test_nobody_gets_in_without_a_key(door: Door) -> None:
    with RawDealer(door.receiver.address, make_hello("g7")):
        wait_until(lambda: bool(door.strangers))
    _refused(door, make_hello("g7"), None, "breaks off every handshake; use the addresses and the")
    # Both sides see that the mechanisms differ; whoever hangs up first decides what it is called.
    assert set(door.strangers) <= {"no_key", "handshake"}
    assert len(door.said) == len(door.strangers)
    door.serves_its_friend(range(3, 6))


def test_the_key_of_another_run_is_none(door: Door, tmp_path: Path) -> None:
    other = KeyFolder(tmp_path / "other")
    other.make()
    key = load_generator_key(other.generator("ranks"))
    _refused(door, make_hello("g7"), key, "breaks off every handshake")
    _counted_and_said_once(door, "foreign_key")
    door.serves_its_friend(range(3, 6))


def test_a_key_that_nobody_added_is_none(door: Door, tmp_path: Path) -> None:
    forged = KeyFolder(tmp_path / "forged")
    forged.make()
    good = load_generator_key(door.keys.generator("ranks"))
    bad = load_generator_key(forged.generator("ranks"))
    key = GeneratorKey(name="ranks", public=bad.public, secret=bad.secret, trainers=good.trainers)
    _refused(door, make_hello("g7"), key, "does not know this generator's key")
    _counted_and_said_once(door, "unknown_key")
    control = ControlClient(
        door.receiver.address, make_hello("g7", role="control", stream=0), key=key
    )
    wait_until(lambda: control.rejected is not None)
    control.close()
    door.serves_its_friend(range(3, 6))


def test_a_right_key_does_not_speak_for_another_generator(door: Door) -> None:
    key = load_generator_key(door.keys.generator("spot"))
    _refused(door, make_hello("g0"), key, "its key is 'spot'.*named 'g0'")
    assert door.receiver.counters().malformed["hello_refused"] > 0
    door.serves_its_friend(range(3, 6))


def test_keys_are_added_and_taken_back_while_the_run_goes_on(door: Door) -> None:
    (added,) = door.keys.make(["late"])
    hello = make_hello("late.machine-1")
    with sending(door.receiver.address, hello, key=load_generator_key(added)) as late:
        put_all(late, range(3, 5))
        wait_until(lambda: len(seen(door.sink)) == 5)
        added.unlink()

        def unheard() -> bool:
            late.publish_status({}, "idle")
            late.publish_status({}, "running")
            return door.receiver.counters().malformed.get("key_withdrawn", 0) > 0

        wait_until(unheard)
    _refused(door, hello, load_generator_key(door.keys.generator("ranks")), "its key is 'ranks'")


def test_a_removed_key_is_out_whatever_lies_beside_it(door: Door) -> None:
    key = load_generator_key(door.keys.generator("spot"))
    (bad,) = door.keys.make(["bad"])
    bad.chmod(0o644)
    door.keys.generator("spot").unlink()
    _refused(door, make_hello("spot"), key, "does not know this generator's key")
    wait_until(lambda: any("chmod 600" in text for text in door.said))
    mended = load_generator_key(door.keys.generator("ranks"))
    bad.chmod(0o600)
    bads_key = load_generator_key(bad)
    assert mended.trainers == bads_key.trainers
    with sending(door.receiver.address, make_hello("bad"), key=bads_key) as late:
        put_all(late, range(3, 5))
        wait_until(lambda: len(seen(door.sink)) == 5)


def test_a_key_folder_that_is_gone_for_a_moment_changes_nothing(door: Door) -> None:
    away = door.keys.root.with_name("away")
    door.keys.root.rename(away)
    door.receiver._doorman._looked_at_s = 0.0  # type: ignore[union-attr]
    door.serves_its_friend(range(3, 6))
    wait_until(lambda: any("the keys in force stay" in text for text in door.said))
    away.rename(door.keys.root)
    door.serves_its_friend(range(6, 9))


def test_a_folder_that_others_may_enter_is_not_made_ours(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    with pytest.raises(KeysError, match="open to other users"):
        KeyFolder(shared).make()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_keys_made_at_once_by_several_fit_each_other(tmp_path: Path) -> None:
    for attempt in range(10):
        folder = KeyFolder(tmp_path / str(attempt))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, folder=folder: folder.make(), range(4)))
        assert set(folder.names().values()) == {"ranks"}


def test_a_key_for_other_trainers_is_named(keys: KeyFolder, tmp_path: Path) -> None:
    other = KeyFolder(tmp_path / "other")
    other.make(["lab"])
    keys.generator("lab").write_bytes(other.generator("lab").read_bytes())
    keys.generator("lab").chmod(0o600)
    with pytest.raises(KeysError, match="for other trainers"):
        keys.names()


def test_key_files_are_private(keys: KeyFolder) -> None:
    for folder in (keys.root, keys.generators):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in keys.root.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["ranks.key", "spot.key", "trainers.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    keys.generator("spot").chmod(0o640)
    with pytest.raises(KeysError, match="chmod 600"):
        keys.names()


def test_keys_once_made_stay(keys: KeyFolder) -> None:
    before = keys.trainers(), keys.names()
    assert keys.make(["spot"]) == []
    assert (keys.trainers(), keys.names()) == before
    assert load_generator_key(keys.generator("spot")).trainers == before[0].public


@pytest.mark.parametrize("name", ["g0", "a b", "", "../x", "x" * 33])
def test_names_that_cannot_be_are_refused(keys: KeyFolder, name: str) -> None:
    with pytest.raises(KeysError, match="cannot name a generator's key"):
        keys.make([name])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"public": "x", "secret": "y"}',
        b'{"public": "%s", "secret": "%s"}' % (b" " * 40, b" " * 40),
        b'{"public": "\xff"}',
        b"x" * 9999,
    ],
)
def test_what_is_not_a_key_is_named(keys: KeyFolder, text: bytes) -> None:
    path = keys.root / "trainers.key"
    path.write_bytes(text)
    with pytest.raises(KeysError, match=r"trainers\.key is not a key"):
        keys.trainers()


def test_the_command_makes_keys(tmp_path: Path) -> None:
    folder = tmp_path / "run-keys"
    command = [sys.executable, "-m", "online_synclr", "keys", str(folder)]
    made = subprocess.run([*command, "spot"], check=True, capture_output=True, text=True).stdout
    assert made.count("made ") == 3
    assert load_generator_key(KeyFolder(folder).generator("spot")).name == "spot"
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "has these keys already" in again
    wrong = subprocess.run([*command, "g1"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "'g1' cannot name" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_another_user_of_the_machine_cannot_reach_a_unix_socket() -> None:
    with receiving(FakeSink()) as receiver:
        path = receiver.address.removeprefix("ipc://")
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        if os.geteuid() != 0:
            pytest.skip("only root may become another user; the folder's mode is what it should be")
        with socket.socket(socket.AF_UNIX) as owner:
            owner.connect(path)
        os.seteuid(NOBODY)
        try:
            with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(PermissionError):
                stranger.connect(path)
        finally:
            os.seteuid(0)
        assert receiver.peers() == []
